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
    MemorySegment pool = SharedMemory.mapPrivate(bytes, true, Arena.global());
    LongStream.range(0, (bytes + PIECE_BYTES - 1) / PIECE_BYTES)
        .parallel()
        .forEach(piece -> populate(pool, piece * PIECE_BYTES));
    return pool;
  }

  private static void populate(MemorySegment pool, long at) {
    try {
      SharedMemory.populate(pool.address() + at, Math.min(PIECE_BYTES, pool.byteSize() - at));
    } catch (ErrnoException e) {
      throw new UncheckedIOException(e);
    }
  }
}
