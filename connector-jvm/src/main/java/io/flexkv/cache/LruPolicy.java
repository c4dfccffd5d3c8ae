package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import java.util.function.IntPredicate;

/**
 * Least recently used, for chains: a lookup touches only the deepest block that it can serve, and a
 * block that loses its last child inherits that child's time of use, so a chain goes from its tail.
 *
 * <p>The list is ordered by time of use. Blocks that are inner nodes or pinned when the search for
 * a victim meets them leave the list (each pays for one entering), and come back at their place in
 * the order when they lose their last child or pin. Such a place is near the old end: whatever left
 * there was the oldest. So every step is O(1), amortised, and the order is exact.
 */
final class LruPolicy implements EvictionPolicy {
  /** Shared by the policies of one core: hands out times of use. */
  static final class Ticks {
    private long now;

    long next() {
      return ++now;
    }
  }

  private final BlockIndex index;
  private final int recencyField;
  private final int olderField;
  private final int newerField;
  private final int listedField;
  private final IntPredicate evictable;
  private final Ticks ticks;
  private int oldest = NONE;
  private int newest = NONE;
  private int size;

  LruPolicy(BlockIndex index, IntPredicate evictable, Ticks ticks, PolicyFields fields) {
    this.index = index;
    recencyField = fields.recency();
    olderField = fields.older();
    newerField = fields.newer();
    listedField = fields.listed();
    this.evictable = evictable;
    this.ticks = ticks;
  }

  @Override
  public void add(int entry) {
    size++;
    touch(entry);
  }

  @Override
  public void touch(int entry) {
    unlink(entry);
    index.setLong(entry, recencyField, ticks.next());
    linkAfter(newest, entry);
  }

  @Override
  public void inherit(int entry, int child) {
    long own = index.getLong(entry, recencyField);
    long inherited = index.getLong(child, recencyField);
    if (inherited > own) {
      unlink(entry);
      index.setLong(entry, recencyField, inherited);
      if (index.getInt(child, listedField) != 0) {
        linkAfter(index.getInt(child, olderField), entry);
        return;
      }
    }
    linkInOrder(entry);
  }

  @Override
  public void released(int entry) {
    linkInOrder(entry);
  }

  @Override
  public void remove(int entry) {
    unlink(entry);
    size--;
  }

  @Override
  public int victim() {
    while (oldest != NONE && !evictable.test(oldest)) {
      unlink(oldest);
    }
    return oldest;
  }

  @Override
  public int size() {
    return size;
  }

  private void linkInOrder(int entry) {
    if (index.getInt(entry, listedField) != 0) {
      return;
    }
    long recency = index.getLong(entry, recencyField);
    int before = NONE;
    int after = oldest;
    while (after != NONE && index.getLong(after, recencyField) < recency) {
      before = after;
      after = index.getInt(after, newerField);
    }
    linkAfter(before, entry);
  }

  private void linkAfter(int before, int entry) {
    int after = before == NONE ? oldest : index.getInt(before, newerField);
    index.setInt(entry, olderField, before);
    index.setInt(entry, newerField, after);
    index.setInt(entry, listedField, 1);
    if (before == NONE) {
      oldest = entry;
    } else {
      index.setInt(before, newerField, entry);
    }
    if (after == NONE) {
      newest = entry;
    } else {
      index.setInt(after, olderField, entry);
    }
  }

  private void unlink(int entry) {
    if (index.getInt(entry, listedField) == 0) {
      return;
    }
    int before = index.getInt(entry, olderField);
    int after = index.getInt(entry, newerField);
    if (before == NONE) {
      oldest = after;
    } else {
      index.setInt(before, newerField, after);
    }
    if (after == NONE) {
      newest = before;
    } else {
      index.setInt(after, olderField, before);
    }
    index.setInt(entry, listedField, 0);
  }
}
