package io.flexkv.tier;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * The host tier's memory: segments of at most 64 GiB, mapped once for the life of the process, out
 * of which slots of any size are handed. Never more than the configured bytes.
 *
 * <p>The pool is cut into extents of 64 MiB (smaller in a small pool, so that there are about 64).
 * A size class takes <em>spans</em> of neighbouring extents on demand, as many extents as waste
 * little at the end of the span, and returns a span when its last slot is freed: so models of
 * different block sizes share one pool. Nothing is ever moved; a pool whose extents are all held by
 * other sizes is full for this one until somebody frees.
 *
 * <p>A slot is a number that is not an address: {@code generation (15 bits) << 40 | page}, where
 * page counts 4 KiB from the start of the pool. Freed twice, or after the place was handed out
 * again, or invented: an exception, and nothing is freed.
 *
 * <p>{@link #allocate} and {@link #free} belong to one thread (the cache's). {@link #address} reads
 * only what never changes and may be called by any.
 */
public final class HostPool {
  /** Answer of {@link #allocate} when there is no room. */
  public static final long FULL = -1;

  /** Slots start at multiples of it and are as long as multiples of it. */
  public static final long PAGE_BYTES = 4096;

  private static final long MAX_SEGMENT_BYTES = 64L << 30;
  private static final long MAX_EXTENT_BYTES = 64L << 20;
  private static final long MIN_EXTENT_BYTES = 64L << 10;
  private static final long MAX_CAPACITY_BYTES = 1L << 52;
  private static final int EXTENTS_AT_LEAST = 64;

  private final List<MemorySegment> segments;
  private final ExtentMap extents;
  private final SizeClasses classes;
  private final long capacityBytes;
  private final long segmentBytes;

  private HostPool(
      List<MemorySegment> segments, ExtentMap extents, long capacityBytes, long segmentBytes) {
    this.segments = segments;
    this.extents = extents;
    this.classes = new SizeClasses(extents);
    this.capacityBytes = capacityBytes;
    this.segmentBytes = segmentBytes;
  }

  /**
   * Maps a pool for the rest of this process's life. Pages come on first use, or earlier by {@link
   * PoolPrefault}.
   *
   * @param name of memfds, where the pages are of that kind, as {@code /proc/<pid>/maps} shows it
   * @param capacityBytes the hard cap; rounded down to whole pages
   */
  public static HostPool create(String name, long capacityBytes, PoolPages pages)
      throws IOException {
    long extent = defaultExtentBytes(capacityBytes);
    return create(name, capacityBytes, extent, MAX_SEGMENT_BYTES, pages, Arena.global());
  }

  /**
   * Maps a pool whose life is that of {@code arena}.
   *
   * @param extentBytes a multiple of 4 KiB. With one block size known in advance, a multiple of it
   *     wastes nothing
   */
  public static HostPool create(String name, long capacityBytes, long extentBytes, Arena arena)
      throws IOException {
    return create(
        name, capacityBytes, extentBytes, MAX_SEGMENT_BYTES, PoolPages.OF_THE_SYSTEM, arena);
  }

  static HostPool create(
      String name,
      long capacityBytes,
      long extentBytes,
      long maxSegmentBytes,
      PoolPages pages,
      Arena arena)
      throws IOException {
    long capacity = capacityBytes / pages.bytes() * pages.bytes();
    if (capacity <= 0 || capacity > MAX_CAPACITY_BYTES) {
      throw new IllegalArgumentException(
          "host pool: capacity=%d bytes, wanted %d to %d"
              .formatted(capacityBytes, pages.bytes(), MAX_CAPACITY_BYTES));
    }
    if (extentBytes <= 0 || extentBytes % PAGE_BYTES != 0 || extentBytes > maxSegmentBytes) {
      throw new IllegalArgumentException(
          "host pool: extent=%d bytes, wanted a multiple of %d up to %d"
              .formatted(extentBytes, PAGE_BYTES, maxSegmentBytes));
    }
    long segmentBytes = maxSegmentBytes / extentBytes * extentBytes;
    List<MemorySegment> segments = new ArrayList<>();
    for (long at = 0; at < capacity; at += segmentBytes) {
      long length = Math.min(segmentBytes, capacity - at);
      segments.add(pages.map(name + "-" + segments.size(), length, arena));
    }
    ExtentMap extents = new ExtentMap(capacity, extentBytes, segmentBytes);
    return new HostPool(List.copyOf(segments), extents, capacity, segmentBytes);
  }

  /** A power of two from 64 KiB to 64 MiB such that the pool has at least 64 of them, if it can. */
  static long defaultExtentBytes(long capacityBytes) {
    long wanted = Long.highestOneBit(Math.max(1, capacityBytes / EXTENTS_AT_LEAST));
    return Math.max(MIN_EXTENT_BYTES, Math.min(MAX_EXTENT_BYTES, wanted));
  }

  /**
   * Takes a slot.
   *
   * @param slotBytes its length; rounded up to 4 KiB
   * @return the slot, or {@link #FULL}
   */
  public long allocate(long slotBytes) {
    if (slotBytes <= 0) {
      throw new IllegalArgumentException("slot of " + slotBytes + " bytes");
    }
    if (slotBytes > segmentBytes) {
      return FULL;
    }
    return classes.allocate((slotBytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
  }

  /**
   * Gives a slot back.
   *
   * @throws IllegalArgumentException if it is not held: freed before, or never given out
   */
  public void free(long slot) {
    classes.free(slot);
  }

  /** The hard cap, in bytes. */
  public long capacityBytes() {
    return capacityBytes;
  }

  /** Bytes of the slots that are held now, rounding included. */
  public long usedBytes() {
    return classes.usedBytes();
  }

  /** Bytes of the extents that some size class holds: what other sizes cannot have now. */
  public long reservedBytes() {
    return extents.takenBytes();
  }

  /** Where the slot lies in this process: the address of its first byte. */
  public long address(long slot) {
    long offset = Slots.offset(slot);
    if (slot < 0 || offset >= capacityBytes) {
      throw new IllegalArgumentException("slot %x is not of this pool".formatted(slot));
    }
    return segments.get((int) (offset / segmentBytes)).address() + offset % segmentBytes;
  }

  /** The first {@code length} bytes of a slot, for reading and writing. */
  public MemorySegment segment(long slot, long length) {
    long offset = Slots.offset(slot);
    if (slot < 0 || offset >= capacityBytes) {
      throw new IllegalArgumentException("slot %x is not of this pool".formatted(slot));
    }
    return segments.get((int) (offset / segmentBytes)).asSlice(offset % segmentBytes, length);
  }

  /** The mapped segments in order, for prefaulting and pinning. */
  public List<MemorySegment> segments() {
    return segments;
  }
}
