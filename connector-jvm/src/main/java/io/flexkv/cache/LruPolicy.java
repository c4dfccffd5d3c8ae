package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.LISTED;
import static io.flexkv.cache.EntryLayout.NEWER;
import static io.flexkv.cache.EntryLayout.OLDER;
import static io.flexkv.cache.EntryLayout.RECENCY;

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
  private final IntPredicate evictable;
  private final Ticks ticks;
  private int oldest = NONE;
  private int newest = NONE;
  private int size;

  LruPolicy(BlockIndex index, IntPredicate evictable, Ticks ticks) {
    this.index = index;
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
    index.setLong(entry, RECENCY, ticks.next());
    linkAfter(newest, entry);
  }

  @Override
  public void inherit(int entry, int child) {
    long own = index.getLong(entry, RECENCY);
    long inherited = index.getLong(child, RECENCY);
    if (inherited > own) {
      unlink(entry);
      index.setLong(entry, RECENCY, inherited);
      if (index.getInt(child, LISTED) != 0) {
        linkAfter(index.getInt(child, OLDER), entry);
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
    if (index.getInt(entry, LISTED) != 0) {
      return;
    }
    long recency = index.getLong(entry, RECENCY);
    int before = NONE;
    int after = oldest;
    while (after != NONE && index.getLong(after, RECENCY) < recency) {
      before = after;
      after = index.getInt(after, NEWER);
    }
    linkAfter(before, entry);
  }

  private void linkAfter(int before, int entry) {
    int after = before == NONE ? oldest : index.getInt(before, NEWER);
    index.setInt(entry, OLDER, before);
    index.setInt(entry, NEWER, after);
    index.setInt(entry, LISTED, 1);
    if (before == NONE) {
      oldest = entry;
    } else {
      index.setInt(before, NEWER, entry);
    }
    if (after == NONE) {
      newest = entry;
    } else {
      index.setInt(after, OLDER, entry);
    }
  }

  private void unlink(int entry) {
    if (index.getInt(entry, LISTED) == 0) {
      return;
    }
    int before = index.getInt(entry, OLDER);
    int after = index.getInt(entry, NEWER);
    if (before == NONE) {
      oldest = after;
    } else {
      index.setInt(before, NEWER, after);
    }
    if (after == NONE) {
      newest = before;
    } else {
      index.setInt(after, OLDER, before);
    }
    index.setInt(entry, LISTED, 0);
  }
}
