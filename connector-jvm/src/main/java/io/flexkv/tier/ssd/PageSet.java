package io.flexkv.tier.ssd;

import java.util.BitSet;
import java.util.HashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Pages of the header log, by {@link HeaderLog#pageNumber}. Those numbers count all pages of the
 * directory, of which the log has a few extents: a bit for each would be 32 MiB a terabyte.
 */
final class PageSet {
  private final int pagesPerExtent;
  private final Map<Integer, BitSet> byExtent = new HashMap<>();

  PageSet(int pagesPerExtent) {
    this.pagesPerExtent = pagesPerExtent;
  }

  /** Adds a page; false if it was there. */
  boolean add(int page) {
    BitSet pages = byExtent.computeIfAbsent((page - 1) / pagesPerExtent, extent -> new BitSet());
    int at = (page - 1) % pagesPerExtent;
    boolean there = pages.get(at);
    pages.set(at);
    return !there;
  }

  boolean contains(int page) {
    return anyOf(page, 1);
  }

  /** Whether one of {@code count} pages of one extent, from {@code first} on, is there. */
  boolean anyOf(int first, int count) {
    @Nullable BitSet pages = byExtent.get((first - 1) / pagesPerExtent);
    if (pages == null) {
      return false;
    }
    int from = (first - 1) % pagesPerExtent;
    int next = pages.nextSetBit(from);
    return next >= 0 && next < from + count;
  }
}
