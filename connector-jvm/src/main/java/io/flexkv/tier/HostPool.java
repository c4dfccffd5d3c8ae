package io.flexkv.tier;

import io.flexkv.ffm.ErrnoException;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;

/**
 * The host tier's memory: segments of at most 64 GiB, mapped for the life of the process, out of
 * which slots of any size are handed. Never more than the configured bytes.
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
 * <p>It grows and shrinks at its end. To grow: {@link #openMemory}, then {@link #resize}. To
 * shrink: {@link #resize}, after which nothing is given out beyond the new end; somebody frees what
 * is held there ({@link #leaves}) until the pool is {@link #vacant}; then {@link #giveBack}. Until
 * that begins, a larger size may be taken after all.
 *
 * <p>{@link #allocate}, {@link #free}, {@link #resize} and {@link #leaves} belong to one thread
 * (the cache's), {@link #openMemory} and {@link #giveBack} to one at a time. The rest is for any:
 * where a slot lies never changes.
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

  private final PoolMemory memory;
  private final ExtentMap extents;
  private final SizeClasses classes;
  private final PoolPages pages;
  private final long segmentBytes;
  private volatile long capacityBytes;

  private HostPool(
      PoolMemory memory,
      ExtentMap extents,
      PoolPages pages,
      long capacityBytes,
      long segmentBytes) {
    this.memory = memory;
    this.extents = extents;
    this.classes = new SizeClasses(extents);
    this.pages = pages;
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
    PoolMemory memory = new PoolMemory(name, segmentBytes, pages, arena);
    memory.open(capacity);
    ExtentMap extents = new ExtentMap(capacity, extentBytes, segmentBytes);
    return new HostPool(memory, extents, pages, capacity, segmentBytes);
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

  /** Whether its size can be changed: not with reserved huge pages. */
  public boolean resizable() {
    return pages.byThePiece();
  }

  /** What it would have if it were resized to {@code bytes}: whole extents, one at least. */
  public long resized(long bytes) {
    long extent = extents.extentBytes();
    return Math.clamp(bytes / extent, 1, MAX_CAPACITY_BYTES / extent) * extent;
  }

  /**
   * Maps what a larger pool needs; pages come later, as at the beginning.
   *
   * @param capacity of {@link #resized}
   * @throws IOException if the system does not give it; the pool is as it was then
   */
  public void openMemory(long capacity) throws IOException {
    memory.open(Math.max(capacity, capacityBytes));
  }

  /**
   * Has another size from now on. What is held beyond it stays held, and where it was.
   *
   * @param capacity of {@link #resized}; all of it mapped
   */
  public void resize(long capacity) {
    if (capacity != resized(capacity) || capacity > memory.bytes()) {
      throw new IllegalArgumentException(
          "capacity=%d, wanted %d, of %d that are mapped"
              .formatted(capacity, resized(capacity), memory.bytes()));
    }
    extents.resize(capacity);
    classes.resized();
    capacityBytes = capacity;
  }

  /** Whether the memory of a slot that is held is to be given back, so that it must be freed. */
  public boolean leaves(long slot) {
    Span span = extents.spanAt(Slots.offset(slot));
    return span != null && extents.isLeaving(span);
  }

  /** Whether nothing is held beyond the present size. */
  public boolean vacant() {
    return extents.leaving() == 0;
  }

  /**
   * From now on {@link #segments} are those of the present size; the pool must be vacant. What lies
   * beyond is to be unpinned, then {@linkplain #giveBack given back}.
   */
  public void retract() {
    requireVacant();
    memory.show(capacityBytes);
  }

  /**
   * Gives the memory beyond the present size back to the system; the pool must be vacant.
   *
   * @param pinned by segment, how many bytes from its start on are pinned still: they stay
   */
  public void giveBack(long[] pinned) throws ErrnoException {
    requireVacant();
    memory.giveBack(capacityBytes, pinned);
  }

  private void requireVacant() {
    if (!vacant()) {
      throw new IllegalStateException(extents.leaving() + " spans are held beyond the end");
    }
  }

  /** Mapped bytes beyond the present size, which are to be given back. */
  public long surplusBytes() {
    return Math.max(0, memory.bytes() - capacityBytes);
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
    return memory.address(Slots.offset(slot));
  }

  /** The first {@code length} bytes of a slot, for reading and writing. */
  public MemorySegment segment(long slot, long length) {
    long offset = Slots.offset(slot);
    return memory.segment(offset).asSlice(offset % segmentBytes, length);
  }

  /** The mapped segments in order, for prefaulting and pinning. */
  public List<MemorySegment> segments() {
    return memory.segments();
  }
}
