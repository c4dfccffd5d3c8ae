package io.flexkv.tier;

import java.util.BitSet;
import org.jspecify.annotations.Nullable;

/**
 * Which extents are free, and which span holds the others. The last extent of a segment, and of the
 * pool, may be short; a span never crosses a segment.
 */
final class ExtentMap {
  private final long capacityBytes;
  private final long extentBytes;
  private final int perSegment;
  private final int count;
  private final BitSet free;
  private final @Nullable Span[] spans;
  private long takenBytes;

  ExtentMap(long capacityBytes, long extentBytes, long segmentBytes) {
    this.capacityBytes = capacityBytes;
    this.extentBytes = extentBytes;
    this.perSegment = Math.toIntExact(segmentBytes / extentBytes);
    this.count = Math.toIntExact((capacityBytes + extentBytes - 1) / extentBytes);
    this.free = new BitSet(count);
    this.free.set(0, count);
    this.spans = new Span[count];
  }

  long extentBytes() {
    return extentBytes;
  }

  long takenBytes() {
    return takenBytes;
  }

  /** The span that holds the byte at {@code offset}, null if none does. */
  @Nullable Span spanAt(long offset) {
    long extent = offset / extentBytes;
    return extent < count ? spans[(int) extent] : null;
  }

  /**
   * Takes the first run of {@code extents} free neighbours that holds at least one slot.
   *
   * @return null if there is no such run
   */
  @Nullable Span take(int extents, long stride) {
    int first = free.nextSetBit(0);
    while (first >= 0) {
      int end = Math.min(free.nextClearBit(first), (first / perSegment + 1) * perSegment);
      if (end - first >= extents) {
        long bytes = bytes(first, extents);
        if (bytes >= stride) {
          return hold(new Span(first, extents, first * extentBytes, bytes, stride));
        }
      }
      first = free.nextSetBit(end);
    }
    return null;
  }

  private long bytes(int first, int extents) {
    return Math.min((first + (long) extents) * extentBytes, capacityBytes) - first * extentBytes;
  }

  private Span hold(Span span) {
    for (int i = span.first(); i < span.first() + span.extents(); i++) {
      if (spans[i] != null) {
        throw new IllegalStateException("extent " + i + " is held twice");
      }
      spans[i] = span;
    }
    free.clear(span.first(), span.first() + span.extents());
    takenBytes += span.bytes();
    return span;
  }

  void release(Span span) {
    for (int i = span.first(); i < span.first() + span.extents(); i++) {
      spans[i] = null;
    }
    free.set(span.first(), span.first() + span.extents());
    takenBytes -= span.bytes();
  }
}
