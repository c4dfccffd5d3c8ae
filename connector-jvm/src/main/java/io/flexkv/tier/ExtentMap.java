package io.flexkv.tier;

import java.util.Arrays;
import java.util.BitSet;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Which extents are free, and which span holds the others. The last extent of the pool may be
 * short; a span never crosses a segment.
 *
 * <p>A map that is made shorter has extents beyond its end that are held still. Their spans are
 * <em>leaving</em>: they give out nothing and come back to nobody.
 */
final class ExtentMap {
  private final long extentBytes;
  private final int perSegment;
  private final BitSet free;
  private long capacityBytes;
  private int count;

  /** By extent; longer than {@code count} where the map was longer. */
  private @Nullable Span[] spans;

  private long takenBytes;
  private final AtomicInteger leaving = new AtomicInteger();

  ExtentMap(long capacityBytes, long extentBytes, long segmentBytes) {
    this.capacityBytes = capacityBytes;
    this.extentBytes = extentBytes;
    this.perSegment = Math.toIntExact(segmentBytes / extentBytes);
    this.count = extents(capacityBytes);
    this.free = new BitSet(count);
    this.free.set(0, count);
    this.spans = new Span[count];
  }

  private int extents(long bytes) {
    return Math.toIntExact((bytes + extentBytes - 1) / extentBytes);
  }

  /** Has another length from now on; whoever holds spans looks which are {@link #isLeaving}. */
  void resize(long bytes) {
    int before = count;
    capacityBytes = bytes;
    count = extents(bytes);
    if (count > spans.length) {
      spans = Arrays.copyOf(spans, count);
    }
    for (int extent = before; extent < count; extent++) {
      free.set(extent, spans[extent] == null);
    }
    if (count < before) {
      free.clear(count, before);
    }
    int[] beyond = {0};
    forEach(span -> beyond[0] += isLeaving(span) ? 1 : 0);
    leaving.set(beyond[0]);
  }

  /** Whether a span reaches beyond the end. */
  boolean isLeaving(Span span) {
    return span.first() + span.extents() > count;
  }

  /** Spans that reach beyond the end; any thread. */
  int leaving() {
    return leaving.get();
  }

  /** Every span once. */
  void forEach(Consumer<Span> visitor) {
    for (int extent = 0; extent < spans.length; ) {
      Span span = spans[extent];
      if (span != null) {
        visitor.accept(span);
      }
      extent += span == null ? 1 : span.extents();
    }
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
    return extent < spans.length ? spans[(int) extent] : null;
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
    int end = Math.min(span.first() + span.extents(), count);
    if (end > span.first()) {
      free.set(span.first(), end);
    }
    if (isLeaving(span)) {
      leaving.decrementAndGet();
    }
    takenBytes -= span.bytes();
  }
}
