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
  void ring_lawfulThenDamaged_endsWithProtocolExceptionOrRecordsWithinIt() {
    SplittableRandom random = new SplittableRandom(SEED);
    try (Arena arena = Arena.ofConfined()) {
      // The ring is the end of the memory: one byte read too far is seen.
      MemorySegment memory = arena.allocate(1024 + 4096, 64);
      MemorySegment record = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
      MemorySegment into = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
      int broken = 0;
      for (int i = 0; i < ROUNDS; i++) {
        memory.fill((byte) 0);
        var writer = new SpscRingWriter(memory, 0, 512, 1024, 4096);
        var reader = new SpscRingReader(memory, 0, 512, 1024, 4096);
        try {
          // Some records come and go first, so that the ring's end lies among the rest.
          broken += damagedRing(random, writer, reader, memory, record, into) ? 1 : 0;
        } catch (ProtocolException e) {
          broken++;
        } catch (Throwable t) {
          throw new AssertionError("seed=" + SEED + " round " + i, t);
        }
      }
      assertThat(broken).as("seed=%d", SEED).isBetween(ROUNDS / 4, ROUNDS - 1);
    }
  }

  private static boolean damagedRing(
      SplittableRandom random,
      SpscRingWriter writer,
      SpscRingReader reader,
      MemorySegment memory,
      MemorySegment record,
      MemorySegment into)
      throws ProtocolException {
    for (int n = random.nextInt(20); n > 0; n--) {
      writer.tryWrite(record, EchoRecord.encode(record, n, new byte[random.nextInt(400)]));
      reader.read(into);
    }
    long first = SharedWords.getAcquire(memory, 0);
    boolean room = true;
    while (room) {
      room = writer.tryWrite(record, EchoRecord.encode(record, 1, new byte[random.nextInt(300)]));
    }
    long tail = SharedWords.getAcquire(memory, 0);
    if (random.nextInt(4) == 0) {
      SharedWords.setRelease(memory, 0, random.nextBoolean() ? random.nextLong() : tail + 8);
    } else {
      // A length: of the first record, or of whatever follows it at a multiple of eight.
      long at = 1024 + ((first + (random.nextBoolean() ? 0 : 8L * random.nextInt(512))) & 4095);
      memory.set(Wire.U32, at, random.nextBoolean() ? random.nextInt(6000) : random.nextInt());
    }
    int total = 0;
    for (int n; (n = reader.read(into)) > 0; ) {
      total += n;
      assertThat(total).isLessThanOrEqualTo(4096);
    }
    return false;
  }
}
