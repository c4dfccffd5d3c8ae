package io.flexkv.device;

import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.concurrent.atomic.AtomicLongArray;

/**
 * How much of the host pool is pinned by now. Pinning goes through each segment from its start in
 * pieces of {@link #PIECE_BYTES}; one number a segment says how far it has come.
 *
 * <p>A copy must not cross the border of two pieces: the driver knows each as memory of its own and
 * refuses a range that lies in two.
 */
final class PinnedRanges {
  /** Bytes pinned by one call of the driver, about 1 ms; a power of two. */
  static final long PIECE_BYTES = 32L << 20;

  private final long[] starts;
  private final long[] lengths;
  private final AtomicLongArray pinned;

  PinnedRanges(List<MemorySegment> pool) {
    this.starts = pool.stream().mapToLong(MemorySegment::address).toArray();
    this.lengths = pool.stream().mapToLong(MemorySegment::byteSize).toArray();
    this.pinned = new AtomicLongArray(starts.length);
  }

  int segments() {
    return starts.length;
  }

  long start(int segment) {
    return starts[segment];
  }

  long length(int segment) {
    return lengths[segment];
  }

  /** Bytes of the whole pool. */
  long bytes() {
    long sum = 0;
    for (long length : lengths) {
      sum += length;
    }
    return sum;
  }

  /** The pinning thread alone: everything before {@code bytes} is pinned. */
  void pinnedUpTo(int segment, long bytes) {
    pinned.setRelease(segment, bytes);
  }

  /** Bytes pinned of the whole pool. */
  long pinnedBytes() {
    long sum = 0;
    for (int i = 0; i < starts.length; i++) {
      sum += pinned.getAcquire(i);
    }
    return sum;
  }

  /** The segment that holds the address, -1 if it is not of the pool. */
  int segmentOf(long address) {
    for (int i = 0; i < starts.length; i++) {
      if (address >= starts[i] && address < starts[i] + lengths[i]) {
        return i;
      }
    }
    return -1;
  }

  /** The address up to which the segment is pinned by now. */
  long pinnedEnd(int segment) {
    return starts[segment] + pinned.getAcquire(segment);
  }

  /** How many bytes from {@code address} on lie in the same piece. */
  long toBorder(int segment, long address) {
    return segment < 0
        ? Long.MAX_VALUE
        : PIECE_BYTES - ((address - starts[segment]) & (PIECE_BYTES - 1));
  }
}
