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
 *
 * <p>What was there before this policy was is learned in any order, and is in the <em>backlog</em>
 * until it is used again: a heap, all of which is older than all of the list.
 */
final class LruPolicy implements EvictionPolicy {
  private final BlockIndex index;
  private final int recencyField;
  private final int olderField;
  private final int newerField;
  private final PolicyEra era;
  private final IntPredicate evictable;
  private final PolicyEra.Ticks ticks;
  private final EntryHeap backlog;
  private int oldest = NONE;
  private int newest = NONE;
  private int size;

  LruPolicy(
      BlockIndex index,
      PolicyFields fields,
      PolicyEra era,
      IntPredicate evictable,
      PolicyEra.Ticks ticks) {
    this.index = index;
    recencyField = fields.recency();
    olderField = fields.older();
    newerField = fields.newer();
    this.era = era;
    this.evictable = evictable;
    this.ticks = ticks;
    this.backlog = new EntryHeap(index, fields.heapPlace(), this::usedBefore);
  }

  /** Ties by handle, so that runs repeat. */
  private boolean usedBefore(int a, int b) {
    long difference = index.getLong(a, recencyField) - index.getLong(b, recencyField);
    return difference == 0 ? a < b : difference < 0;
  }

  @Override
  public void add(int entry) {
    size++;
    era.set(entry, PolicyEra.KNOWN);
    touch(entry);
  }

  @Override
  public void learn(int entry) {
    if (era.get(entry) == PolicyEra.UNKNOWN) {
      size++;
      era.set(entry, PolicyEra.KNOWN);
      era.clampRecency(entry);
      linkInOrder(entry);
    }
  }

  @Override
  public void touch(int entry) {
    learn(entry);
    unlink(entry);
    index.setLong(entry, recencyField, ticks.next());
    linkAfter(newest, entry);
  }

  @Override
  public void inherit(int entry, int child) {
    learn(entry);
    long own = index.getLong(entry, recencyField);
    long inherited = index.getLong(child, recencyField);
    if (era.wasUsed(child) && inherited - own > 0) {
      unlink(entry);
      index.setLong(entry, recencyField, inherited);
      if (era.get(child) == PolicyEra.LISTED) {
        linkAfter(index.getInt(child, olderField), entry);
        return;
      }
      if (era.get(child) == PolicyEra.UNKNOWN) {
        era.clampRecency(entry);
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
    if (era.get(entry) != PolicyEra.UNKNOWN) {
      unlink(entry);
      era.set(entry, PolicyEra.UNKNOWN);
      size--;
    }
  }

  @Override
  public int victim() {
    while (backlog.top() != NONE && !evictable.test(backlog.top())) {
      unlink(backlog.top());
    }
    if (backlog.top() != NONE) {
      return backlog.top();
    }
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
    if (era.get(entry) != PolicyEra.KNOWN) {
      return;
    }
    if (era.isOlder(entry)) {
      era.set(entry, PolicyEra.BACKLOG);
      backlog.insert(entry);
      return;
    }
    long recency = index.getLong(entry, recencyField);
    int before = NONE;
    int after = oldest;
    while (after != NONE && index.getLong(after, recencyField) - recency < 0) {
      before = after;
      after = index.getInt(after, newerField);
    }
    linkAfter(before, entry);
  }

  private void linkAfter(int before, int entry) {
    int after = before == NONE ? oldest : index.getInt(before, newerField);
    index.setInt(entry, olderField, before);
    index.setInt(entry, newerField, after);
    era.set(entry, PolicyEra.LISTED);
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

  /** Out of list or backlog, if it is in one of them. */
  private void unlink(int entry) {
    int state = era.get(entry);
    if (state == PolicyEra.BACKLOG) {
      era.set(entry, PolicyEra.KNOWN);
      backlog.takeOut(entry);
    }
    if (state != PolicyEra.LISTED) {
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
    era.set(entry, PolicyEra.KNOWN);
  }
}
