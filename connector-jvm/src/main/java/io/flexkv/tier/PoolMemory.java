package io.flexkv.tier;

import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.SharedMemory;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * The segments of a pool. Each has addresses for its full length, of which the first part is open;
 * only the last one that is open at all may be shorter. So a pool grows and shrinks at its end, and
 * no byte of it ever moves.
 *
 * <p>One thread at a time opens and gives back; {@link #segments} is for all.
 */
final class PoolMemory {
  private static final long GIVEN_BACK_AT_ONCE = 256L << 20;

  private final String name;
  private final long segmentBytes;
  private final PoolPages pages;
  private final Arena arena;
  private final List<MemorySegment> whole = new ArrayList<>();

  /** Bytes of each segment that can be touched: what is in use, and what could not be closed. */
  private final List<Long> touchable = new ArrayList<>();

  private volatile List<MemorySegment> open = List.of();

  PoolMemory(String name, long segmentBytes, PoolPages pages, Arena arena) {
    this.name = name;
    this.segmentBytes = segmentBytes;
    this.pages = pages;
    this.arena = arena;
  }

  /** What is open, in order. */
  List<MemorySegment> segments() {
    return open;
  }

  /** Bytes that are open. */
  long bytes() {
    List<MemorySegment> now = open;
    return now.isEmpty() ? 0 : (now.size() - 1) * segmentBytes + now.getLast().byteSize();
  }

  /** The open part of the segment in which a byte of the pool lies. */
  MemorySegment segment(long offset) {
    List<MemorySegment> now = open;
    long segment = offset / segmentBytes;
    if (offset < 0
        || segment >= now.size()
        || offset % segmentBytes >= now.get((int) segment).byteSize()) {
      throw new IllegalArgumentException("byte %d is not of this pool".formatted(offset));
    }
    return now.get((int) segment);
  }

  /** Where a byte of the pool lies in this process. */
  long address(long offset) {
    return segment(offset).address() + offset % segmentBytes;
  }

  private long length(int segment, long capacity) {
    return Math.clamp(capacity - segment * segmentBytes, 0, segmentBytes);
  }

  /**
   * Opens all up to {@code capacity} bytes of the pool.
   *
   * @throws IOException if the system does not give it; what was open before is so still
   */
  void open(long capacity) throws IOException {
    for (int i = 0; i * segmentBytes < capacity; i++) {
      long length = length(i, capacity);
      if (i == whole.size()) {
        whole.add(pages.map(name + "-" + i, length, segmentBytes, arena));
        touchable.add(length);
      } else if (length > touchable.get(i)) {
        long from = touchable.get(i);
        SharedMemory.open(whole.get(i).address() + from, length - from);
        touchable.set(i, length);
      }
    }
    show(Math.max(capacity, bytes()));
  }

  /**
   * Gives back what lies beyond {@code capacity} bytes.
   *
   * @param pinned by segment, the bytes that somebody still has pinned: they stay as they are
   */
  void giveBack(long capacity, long[] pinned) throws ErrnoException {
    show(capacity);
    for (int i = whole.size() - 1; i >= 0; i--) {
      long until = Math.max(length(i, capacity), i < pinned.length ? pinned[i] : 0);
      while (touchable.get(i) > until) {
        // Piece by piece: the kernel holds up this process's other mappings meanwhile.
        long from = Math.max(until, touchable.get(i) - GIVEN_BACK_AT_ONCE);
        SharedMemory.giveBack(whole.get(i).address() + from, touchable.get(i) - from);
        touchable.set(i, from);
      }
    }
  }

  /** What lies beyond is not of the pool any more, although it may be mapped. */
  void show(long capacity) {
    List<MemorySegment> shown = new ArrayList<>();
    for (int i = 0; i * segmentBytes < capacity; i++) {
      shown.add(whole.get(i).asSlice(0, length(i, capacity)));
    }
    open = List.copyOf(shown);
  }
}
