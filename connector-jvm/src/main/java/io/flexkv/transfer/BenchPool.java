package io.flexkv.transfer;

import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.SharedMemory;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.stream.LongStream;

/** Host memory for a bench, of the pool's kind. */
final class BenchPool {
  private static final long PIECE_BYTES = 64L << 20;

  private BenchPool() {}

  /** All its pages are there; mapped until the process ends, since it may be pinned. */
  static MemorySegment map(long bytes) throws IOException {
    MemorySegment pool = mapEmpty(bytes);
    pieces(pool).parallel().forEach(at -> populate(pool, at));
    return pool;
  }

  /** Its pages are still to come; mapped until the process ends likewise. */
  static MemorySegment mapEmpty(long bytes) throws IOException {
    MemorySegment pool = SharedMemory.reserve(bytes, true, Arena.global());
    SharedMemory.open(pool.address(), bytes);
    return pool;
  }

  /** Gives it its pages by several threads, as the sidecar does while it serves. */
  static void populateBesides(MemorySegment pool) {
    Thread.ofPlatform()
        .daemon()
        .name("bench-populate")
        .start(() -> pieces(pool).parallel().forEach(at -> populate(pool, at)));
  }

  private static LongStream pieces(MemorySegment pool) {
    return LongStream.range(0, (pool.byteSize() + PIECE_BYTES - 1) / PIECE_BYTES)
        .map(piece -> piece * PIECE_BYTES);
  }

  private static void populate(MemorySegment pool, long at) {
    try {
      SharedMemory.populate(pool.address() + at, Math.min(PIECE_BYTES, pool.byteSize() - at));
    } catch (ErrnoException e) {
      throw new UncheckedIOException(e);
    }
  }
}
