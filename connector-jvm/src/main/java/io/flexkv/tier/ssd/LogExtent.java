package io.flexkv.tier.ssd;

import java.util.BitSet;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;

/**
 * An extent of the log: since when, how many headers were written to it and still count, and whose
 * they are. Guarded by the log.
 *
 * <p><b>Order.</b> What was written to an extent is older than what was written to one of a later
 * use. Of a span that was dissolved no header counts, and nothing says so: as long as a slot's last
 * one is there, a start takes that for true, which it is. But if it has been cleaned away, an older
 * one counts that is wrong about what is in the slot. So extents that have headers of dissolved
 * spans in the same place are cleaned in the order of their use.
 */
final class LogExtent {
  final int extent;
  final long use;
  int appended;
  int live;

  /** Extents of the directory for whose slots there are headers here, be they any span's. */
  private final BitSet places;

  /** Those of them whose span has been dissolved since. */
  private final BitSet dissolved = new BitSet();

  /** An empty one. */
  LogExtent(int extent, long use) {
    this(extent, use, new BitSet());
  }

  /**
   * @param places extents of the directory for whose slots it has headers; belongs to this
   */
  LogExtent(int extent, long use, BitSet places) {
    this.extent = extent;
    this.use = use;
    this.places = places;
  }

  /** The share of its headers that still count. */
  double share() {
    return appended == 0 ? 0 : (double) live / appended;
  }

  /** A header of this span is written to it. */
  void add(SlotSpan span) {
    places.set(span.firstExtent, span.firstExtent + span.extents);
  }

  /** That span is gone. */
  void dissolve(SlotSpan span) {
    int end = span.firstExtent + span.extents;
    for (int at = places.nextSetBit(span.firstExtent);
        at >= 0 && at < end;
        at = places.nextSetBit(at + 1)) {
      dissolved.set(at);
    }
  }

  /** Those that can be cleaned without an older header coming to count for it. */
  static List<LogExtent> inOrder(Collection<LogExtent> all) {
    BitSet earlier = new BitSet();
    return all.stream()
        .sorted(Comparator.comparingLong(found -> found.use))
        .filter(found -> {
          boolean first = !earlier.intersects(found.dissolved);
          earlier.or(found.dissolved);
          return first;
        })
        .toList();
  }
}
