package io.flexkv.protocol;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Random;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;

/** Whatever bytes come: a view is right, or there is a ProtocolException, and nothing else. */
class DecoderFuzzTest {
  private static final long SEED = Long.getLong("flexkv.seed", new Random().nextLong());
  private static final int ROUNDS = 4_000;

  @Test
  void records_damaged_neverThrowAnythingElse() {
    SplittableRandom random = new SplittableRandom(SEED);
    int refused = 0;
    int read = 0;
    for (RecordCase c : RecordCase.all().values()) {
      for (int i = 0; i < ROUNDS; i++) {
        byte[] bytes = Damage.damage(c.encode(c.random(random)), random);
        try {
          c.decode(bytes);
          read++;
        } catch (ProtocolException e) {
          refused++;
        } catch (Throwable t) {
          throw new AssertionError("seed=" + SEED + " " + c + " round " + i, t);
        }
      }
    }
    assertThat(refused).as("damage that was noticed, seed=%d", SEED).isGreaterThan(ROUNDS);
    assertThat(read).as("damage that hit values only, seed=%d", SEED).isGreaterThan(ROUNDS);
  }

  @Test
  void headers_damaged_neverThrowAnythingElse() {
    SplittableRandom random = new SplittableRandom(SEED);
    var geometry = new SessionFileDescriptor.Geometry(1, 77, 8192, 4096, 5, 7);
    byte[] session = new byte[(int) geometry.totalBytes()];
    SessionFileDescriptor.writeGeometry(MemorySegment.ofArray(session), geometry);
    byte[] generations = new byte[(int) GenerationFileDescriptor.totalBytes(99)];
    GenerationFileDescriptor.writeHeader(MemorySegment.ofArray(generations), 99);
    byte[] frame = FrameDescriptor.encode(FrameDescriptor.HELLO, new byte[100]);
    for (int i = 0; i < ROUNDS; i++) {
      MemorySegment s = MemorySegment.ofArray(Damage.damage(session, random));
      MemorySegment g = MemorySegment.ofArray(Damage.damage(generations, random));
      MemorySegment f = MemorySegment.ofArray(Damage.damage(frame, random));
      try {
        var seen = SessionFileDescriptor.geometry(s);
        assertThat(seen.totalBytes()).isEqualTo(s.byteSize());
      } catch (ProtocolException e) {
        assertThat(e).hasMessageContaining("session file");
      }
      try {
        int entries = GenerationFileDescriptor.entries(g);
        assertThat(64 + 8L * entries).isLessThanOrEqualTo(g.byteSize());
      } catch (ProtocolException e) {
        assertThat(e).hasMessageContaining("generation file");
      }
      try {
        FrameDescriptor.checkHeader(f);
        assertThat(FrameDescriptor.payloadBytes(f)).isBetween(0, Protocol.MAX_FRAME_BYTES);
      } catch (ProtocolException e) {
        assertThat(e).hasMessageContaining("frame");
      }
    }
  }

  @Test
  void ring_hostileCountersAndBytes_endsWithProtocolException() {
    SplittableRandom random = new SplittableRandom(SEED);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment memory = arena.allocate(1024 + 4096, 64);
      MemorySegment into = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
      int broken = 0;
      for (int i = 0; i < ROUNDS; i++) {
        byte[] noise = new byte[4096];
        random.nextBytes(noise);
        for (int at = 0; at < noise.length; at += 8) {
          if (random.nextInt(3) > 0) {
            noise[at + 1] = (byte) random.nextInt(3);
            noise[at + 2] = 0;
            noise[at + 3] = 0;
            noise[at + 4] = (byte) random.nextInt(2);
            noise[at + 5] = 0;
          }
        }
        MemorySegment.copy(MemorySegment.ofArray(noise), 0, memory, 1024, 4096);
        long tail = random.nextBoolean() ? 8L * random.nextInt(600) : random.nextLong();
        SharedWords.setRelease(memory, 0, tail);
        var reader = new SpscRingReader(memory, 0, 512, 1024, 4096);
        try {
          long read = 0;
          for (int n; (n = reader.read(into)) > 0; ) {
            read += n;
            assertThat(read).as("seed=%d", SEED).isLessThanOrEqualTo(4096);
          }
        } catch (ProtocolException e) {
          broken++;
        }
      }
      assertThat(broken).as("seed=%d", SEED).isGreaterThan(ROUNDS / 4);
    }
  }
}
