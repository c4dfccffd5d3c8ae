package io.flexkv.protocol;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.SplittableRandom;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class SpscRingTest {
  private static final int CAPACITY = 4096;
  private final Arena arena = Arena.ofShared();
  private final MemorySegment memory = arena.allocate(1024 + CAPACITY, 64);
  private final SpscRingWriter writer = new SpscRingWriter(memory, 0, 512, 1024, CAPACITY);
  private final SpscRingReader reader = new SpscRingReader(memory, 0, 512, 1024, CAPACITY);
  private final MemorySegment out = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
  private final MemorySegment in = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);

  @AfterEach
  void close() {
    arena.close();
  }

  /** A record of {@code length} bytes whose every byte follows from {@code number}. */
  private int record(long number, int length) {
    RecordDescriptor.encode(out, length, RecordDescriptor.TYPE_ECHO);
    for (int i = 8; i < length; i++) {
      out.set(ValueLayout.JAVA_BYTE, i, (byte) (number * 31 + i));
    }
    return length;
  }

  private void checkRecord(long number, int length, int read) {
    if (read != length || RecordDescriptor.length(in) != length) {
      throw new AssertionError("record %d: read %d, wanted %d".formatted(number, read, length));
    }
    for (int i = 8; i < length; i++) {
      if (in.get(ValueLayout.JAVA_BYTE, i) != (byte) (number * 31 + i)) {
        throw new AssertionError("record %d differs at byte %d".formatted(number, i));
      }
    }
  }

  @Test
  void read_emptyRing_nothing() throws ProtocolException {
    assertThat(reader.hasNext()).isFalse();
    assertThat(reader.read(in)).isZero();
  }

  @Test
  void tryWrite_fullRing_isRefusedUntilRead() throws ProtocolException {
    for (int i = 0; i < 4; i++) {
      assertThat(writer.tryWrite(out, record(i, 1024))).isTrue();
    }
    assertThat(writer.tryWrite(out, record(9, 8))).isFalse();
    checkRecord(0, 1024, reader.read(in));
    assertThat(writer.tryWrite(out, record(9, 8))).isTrue();
    assertThat(writer.tryWrite(out, record(9, 1024))).isFalse();
  }

  @Test
  void tryWrite_recordAcrossTheEnd_isPaddedAndWhole() throws ProtocolException {
    assertThat(writer.tryWrite(out, record(1, 2000))).isTrue();
    assertThat(writer.tryWrite(out, record(2, 1500))).isTrue();
    checkRecord(1, 2000, reader.read(in));
    // 592 bytes are left before the end: this one goes to the start, behind a padding record.
    assertThat(writer.tryWrite(out, record(3, 601))).isTrue();
    checkRecord(2, 1500, reader.read(in));
    checkRecord(3, 601, reader.read(in));
    assertThat(reader.read(in)).isZero();
  }

  @Test
  void tryWrite_headBeyondTail_isRefused() {
    SharedWords.setRelease(memory, 512, 8192);
    assertThatThrownBy(
            () -> {
              for (int i = 0; i < 10; i++) {
                writer.tryWrite(out, record(i, 1024));
              }
            })
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("ring head");
  }

  @Test
  void read_tailBeyondCapacity_isRefused() {
    SharedWords.setRelease(memory, 0, CAPACITY + 8);
    assertThatThrownBy(() -> reader.read(in))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("4104 bytes waiting, at most 4096");
  }

  @Test
  void twoThreads_manyRecordsOfAllSizes_arriveInOrderAndWhole() throws Exception {
    int count = 60_000;
    AtomicReference<Throwable> failure = new AtomicReference<>();
    Thread producer =
        Thread.ofPlatform()
            .start(() -> {
              SplittableRandom sizes = new SplittableRandom(7);
              try {
                for (long n = 0; n < count; n++) {
                  int length = record(n, 8 + sizes.nextInt(n % 100 == 0 ? 2000 : 100));
                  while (!writer.tryWrite(out, length)) {
                    Thread.onSpinWait();
                    LockSupport.parkNanos(1_000);
                  }
                }
              } catch (Throwable t) {
                failure.set(t);
              }
            });
    SplittableRandom sizes = new SplittableRandom(7);
    long deadline = System.nanoTime() + 30_000_000_000L;
    for (long n = 0; n < count; n++) {
      int length = 8 + sizes.nextInt(n % 100 == 0 ? 2000 : 100);
      int read;
      while ((read = reader.read(in)) == 0) {
        if (System.nanoTime() > deadline || failure.get() != null) {
          throw new AssertionError("record " + n + " did not come", failure.get());
        }
        LockSupport.parkNanos(1_000);
      }
      checkRecord(n, length, read);
    }
    producer.join();
    assertThat(failure.get()).isNull();
    assertThat(reader.read(in)).isZero();
  }
}
