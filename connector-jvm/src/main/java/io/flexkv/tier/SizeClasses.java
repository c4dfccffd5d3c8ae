package io.flexkv.tier;

import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.SequencedSet;

/** The spans of every slot size, and the choice of how many extents a span of a size takes. */
final class SizeClasses {
  /** A span may leave 1/32 of itself unused, if a longer one does not do better. */
  private static final long WASTE_DIVISOR = 32;

  private static final int MAX_EXTRA_EXTENTS = 32;

  private final ExtentMap extents;

  /**
   * Slot size in bytes to its spans that have both held and free slots (or have just been taken).
   */
  private final Map<Long, SequencedSet<Span>> open = new HashMap<>();

  private long usedBytes;
  private int salt;

  SizeClasses(ExtentMap extents) {
    this.extents = extents;
  }

  long usedBytes() {
    return usedBytes;
  }

  long allocate(long stride) {
    SequencedSet<Span> spans = open.computeIfAbsent(stride, size -> new LinkedHashSet<>());
    if (spans.isEmpty() && !addSpan(stride, spans)) {
      open.remove(stride);
      return HostPool.FULL;
    }
    Span span = spans.getFirst();
    long slot = span.take(salt);
    if (span.full()) {
      spans.remove(span);
    }
    usedBytes += stride;
    return slot;
  }

  /** The extents have been resized: what leaves gives out nothing, what does not may again. */
  void resized() {
    open.values().forEach(spans -> spans.removeIf(extents::isLeaving));
    open.values().removeIf(SequencedSet::isEmpty);
    extents.forEach(span -> {
      if (!span.full() && !extents.isLeaving(span)) {
        open.computeIfAbsent(span.stride(), size -> new LinkedHashSet<>()).add(span);
      }
    });
  }

  /** Takes a new span: of the best length, else of a shorter one that still holds a slot. */
  private boolean addSpan(long stride, SequencedSet<Span> spans) {
    int least = Math.toIntExact((stride + extents.extentBytes() - 1) / extents.extentBytes());
    for (int length = bestLength(stride, least); length >= least; length--) {
      Span span = extents.take(length, stride);
      if (span != null) {
        spans.add(span);
        salt = (salt + 1) % (Slots.GENERATIONS - 1);
        return true;
      }
    }
    return false;
  }

  private int bestLength(long stride, int least) {
    int best = least;
    double bestWaste = 1;
    for (int length = least; length <= least + MAX_EXTRA_EXTENTS; length++) {
      long bytes = length * extents.extentBytes();
      long waste = bytes % stride;
      if (waste * WASTE_DIVISOR <= bytes) {
        return length;
      }
      if ((double) waste / bytes < bestWaste) {
        best = length;
        bestWaste = (double) waste / bytes;
      }
    }
    return best;
  }

  void free(long slot) {
    Span span = slot < 0 ? null : extents.spanAt(Slots.offset(slot));
    if (span == null) {
      throw new IllegalArgumentException(
          "slot %x is not held: nothing is held at its place".formatted(slot));
    }
    boolean wasFull = span.full();
    span.give(slot);
    usedBytes -= span.stride();
    SequencedSet<Span> spans = open.computeIfAbsent(span.stride(), size -> new LinkedHashSet<>());
    if (span.empty()) {
      spans.remove(span);
      extents.release(span);
    } else if (wasFull && !extents.isLeaving(span)) {
      spans.add(span);
    }
    if (spans.isEmpty()) {
      open.remove(span.stride());
    }
  }
}
