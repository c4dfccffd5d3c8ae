package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.PARENT;

import java.util.function.IntPredicate;

/**
 * Eviction by any {@link EvictionOrder}: an {@link EntryHeap}. {@code lru} without a reward has the
 * faster {@link LruPolicy}.
 *
 * <p>Blocks that are inner nodes or pinned when they come to the top leave the heap (each pays for
 * one entering), and come back when they lose their last child or pin.
 */
final class HeapPolicy implements EvictionPolicy {
  private final BlockIndex index;
  private final int heapPlace;
  private final PolicyEra era;
  private final IntPredicate evictable;
  private final EvictionOrder order;
  private final EntryHeap heap;
  private int size;

  HeapPolicy(
      BlockIndex index,
      PolicyFields fields,
      PolicyEra era,
      IntPredicate evictable,
      EvictionOrder order) {
    this.index = index;
    this.heapPlace = fields.heapPlace();
    this.era = era;
    this.evictable = evictable;
    this.order = order;
    this.heap = new EntryHeap(index, heapPlace, order::before);
  }

  @Override
  public void add(int entry) {
    order.added(entry);
    enter(entry);
  }

  @Override
  public void learn(int entry) {
    if (!knows(entry)) {
      learned(entry);
      enter(entry);
    }
  }

  private void learned(int entry) {
    era.clampRecency(entry);
    order.forgetHits(entry);
  }

  private void enter(int entry) {
    size++;
    era.set(entry, PolicyEra.KNOWN);
    index.setInt(entry, heapPlace, NONE);
    heap.insert(entry);
  }

  @Override
  public void touch(int entry) {
    learn(entry);
    order.hit(entry);
    settle(entry);
  }

  @Override
  public void inherit(int entry, int child) {
    learn(entry);
    absorb(entry, child);
    insert(entry);
  }

  @Override
  public void released(int entry) {
    if (knows(entry)) {
      insert(entry);
    }
  }

  @Override
  public void remove(int entry) {
    int parent = index.getInt(entry, PARENT);
    if (parent != NONE) {
      absorb(parent, entry);
    }
    if (knows(entry)) {
      takeOut(entry);
      era.set(entry, PolicyEra.UNKNOWN);
      size--;
    }
  }

  @Override
  public int victim() {
    while (heap.top() != NONE && !evictable.test(heap.top())) {
      takeOut(heap.top());
    }
    return heap.top();
  }

  @Override
  public int size() {
    return size;
  }

  /** Of a child that never was servable from this tier there is nothing to know. */
  private void absorb(int parent, int child) {
    if (!knows(parent)) {
      return;
    }
    if (!knows(child)) {
      if (!era.wasUsed(child)) {
        return;
      }
      learned(child);
    }
    order.absorb(parent, child);
    settle(parent);
  }

  private boolean knows(int entry) {
    return era.get(entry) != PolicyEra.UNKNOWN;
  }

  private void insert(int entry) {
    if (index.getInt(entry, heapPlace) == NONE) {
      heap.insert(entry);
    }
  }

  private void takeOut(int entry) {
    if (index.getInt(entry, heapPlace) != NONE) {
      heap.takeOut(entry);
    }
  }

  private void settle(int entry) {
    if (index.getInt(entry, heapPlace) != NONE) {
      heap.settle(entry);
    }
  }
}
