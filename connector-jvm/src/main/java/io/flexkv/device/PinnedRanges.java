package io.flexkv.device;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;

/**
 * How much of the host pool is pinned by now. Pinning goes through each segment from its start in
 * pieces of {@link #PIECE_BYTES}, and back from its end where the pool has become smaller; one
 * number a segment says how far it has come.
 *
 * <p>A copy must not cross the border of two pieces: the driver knows each as memory of its own and
 * refuses a range that lies in two. Borders are multiples of a piece, and the places where a
 * segment once ended: its last piece was shorter, and is not pinned anew when the segment grows,
 * since a copy may be using it.
 *
 * <p>Borders and lengths are read by copies at any time. The pinning thread alone pins and unpins;
 * {@link #resize} is for one thread at a time.
 */
final class PinnedRanges {
  /** Bytes pinned by one call of the driver, about 1 ms; a power of two. */
  static final long PIECE_BYTES = 32L << 20;

  private static final class Segment {
    final long start;
    volatile long length;

    /** Everything before it is pinned. */
    volatile long pinned;

    /** Borders that are no multiples of a piece, ascending. */
    volatile long[] odd = {};

    Segment(long start) {
      this.start = start;
    }
  }

  private volatile Segment[] segments = {};

  PinnedRanges(List<MemorySegment> pool) {
    resize(pool);
  }

  /** The pool has these segments now: those from before with other lengths, and more. */
  void resize(List<MemorySegment> pool) {
    Segment[] before = segments;
    Segment[] now = Arrays.copyOf(before, Math.max(before.length, pool.size()));
    for (int i = 0; i < now.length; i++) {
      if (i >= before.length) {
        now[i] = new Segment(pool.get(i).address());
      }
      now[i].length = i < pool.size() ? pool.get(i).byteSize() : 0;
    }
    segments = now;
  }

  int segments() {
    return segments.length;
  }

  long start(int segment) {
    return segments[segment].start;
  }

  long length(int segment) {
    return segments[segment].length;
  }

  /** Bytes of the whole pool. */
  long bytes() {
    return Arrays.stream(segments).mapToLong(segment -> segment.length).sum();
  }

  /** Where the piece to be pinned next ends; no further than the segment. */
  long nextEnd(int segment) {
    Segment its = segments[segment];
    return Math.min(its.length, (its.pinned / PIECE_BYTES + 1) * PIECE_BYTES);
  }

  /** The pinning thread alone: everything before {@code end}, of {@link #nextEnd}, is pinned. */
  void pinnedUpTo(int segment, long end) {
    Segment its = segments[segment];
    if (end % PIECE_BYTES != 0) {
      long[] odd = Arrays.copyOf(its.odd, its.odd.length + 1);
      odd[odd.length - 1] = end;
      its.odd = odd;
    }
    its.pinned = end;
  }

  /** Whether a piece is pinned that lies beyond the segment's end as a whole. */
  boolean pinnedBeyond(int segment) {
    Segment its = segments[segment];
    return its.pinned > 0 && lastStart(its) >= its.length;
  }

  private static long lastStart(Segment its) {
    long start = (its.pinned - 1) / PIECE_BYTES * PIECE_BYTES;
    for (long border : its.odd) {
      start = border < its.pinned ? Math.max(start, border) : start;
    }
    return start;
  }

  /**
   * The pinning thread alone: no copy takes the last pinned piece for pinned any more; then it may
   * be unpinned.
   *
   * @return where it starts
   */
  long takeLast(int segment) {
    Segment its = segments[segment];
    long start = lastStart(its);
    its.pinned = start;
    its.odd = Arrays.stream(its.odd).filter(border -> border <= start).toArray();
    return start;
  }

  /** Bytes pinned of a segment, from its start on. */
  long pinned(int segment) {
    return segments[segment].pinned;
  }

  /** Bytes pinned of the whole pool. */
  long pinnedBytes() {
    return Arrays.stream(segments).mapToLong(segment -> segment.pinned).sum();
  }

  /** Bytes pinned of each segment, from its start on. */
  long[] pinnedOfEach() {
    return Arrays.stream(segments).mapToLong(segment -> segment.pinned).toArray();
  }

  /** The segment that holds the address, -1 if it is not of the pool. */
  int segmentOf(long address) {
    Segment[] now = segments;
    for (int i = 0; i < now.length; i++) {
      if (address >= now[i].start && address - now[i].start < now[i].length) {
        return i;
      }
    }
    return -1;
  }

  /** The address up to which the segment is pinned by now. */
  long pinnedEnd(int segment) {
    Segment its = segments[segment];
    return its.start + its.pinned;
  }

  /** How many bytes from {@code address} on lie in the same piece. */
  long toBorder(int segment, long address) {
    if (segment < 0) {
      return Long.MAX_VALUE;
    }
    Segment its = segments[segment];
    long within = address - its.start;
    long border = (within / PIECE_BYTES + 1) * PIECE_BYTES;
    for (long odd : its.odd) {
      border = odd > within ? Math.min(border, odd) : border;
    }
    return border - within;
  }
}
