package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.PARENT;

import java.util.Arrays;
import java.util.function.IntPredicate;

/**
 * Eviction by any {@link EvictionOrder}: a binary heap of entries, each of which knows its place in
 * it, so every call is O(log n), amortised. {@code lru} without a reward has the faster {@link
 * LruPolicy}.
 *
 * <p>Blocks that are inner nodes or pinned when they come to the top leave the heap (each pays for
 * one entering), and come back when they lose their last child or pin.
 */
final class HeapPolicy implements EvictionPolicy {
  private static final int MIN_CAPACITY = 64;

  private final BlockIndex index;
  private final int heapPlace;
  private final int known;
  private final IntPredicate evictable;
  private final EvictionOrder order;
  private int[] heap = new int[MIN_CAPACITY];
  private int heapSize;
  private int size;

  HeapPolicy(BlockIndex index, PolicyFields fields, IntPredicate evictable, EvictionOrder order) {
    this.index = index;
    this.heapPlace = fields.heapPlace();
    this.known = fields.listed();
    this.evictable = evictable;
    this.order = order;
  }

  @Override
  public void add(int entry) {
    size++;
    order.added(entry);
    index.setInt(entry, heapPlace, NONE);
    index.setInt(entry, known, 1);
    insert(entry);
  }

  @Override
  public void touch(int entry) {
    order.hit(entry);
    settle(entry);
  }

  @Override
  public void inherit(int entry, int child) {
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
    takeOut(entry);
    index.setInt(entry, known, 0);
    size--;
  }

  @Override
  public int victim() {
    while (heapSize > 0 && !evictable.test(heap[0])) {
      takeOut(heap[0]);
    }
    return heapSize == 0 ? NONE : heap[0];
  }

  @Override
  public int size() {
    return size;
  }

  /** Of a child that never was servable from this tier there is nothing to know. */
  private void absorb(int parent, int child) {
    if (knows(child) && knows(parent)) {
      order.absorb(parent, child);
      settle(parent);
    }
  }

  private boolean knows(int entry) {
    return index.getInt(entry, known) != 0;
  }

  private void insert(int entry) {
    if (index.getInt(entry, heapPlace) != NONE) {
      return;
    }
    if (heapSize == heap.length) {
      heap = Arrays.copyOf(heap, Math.multiplyExact(2, heapSize));
    }
    put(entry, heapSize++);
    settle(entry);
  }

  private void takeOut(int entry) {
    int place = index.getInt(entry, heapPlace);
    if (place == NONE) {
      return;
    }
    index.setInt(entry, heapPlace, NONE);
    int last = heap[--heapSize];
    if (last != entry) {
      put(last, place);
      settle(last);
    }
  }

  /** Moves an entry, if it is in the heap, to where its order wants it. */
  private void settle(int entry) {
    int place = index.getInt(entry, heapPlace);
    if (place != NONE) {
      sink(entry, rise(entry, place));
    }
  }

  private int rise(int entry, int from) {
    int place = from;
    while (place > 0 && order.before(entry, heap[(place - 1) / 2])) {
      put(heap[(place - 1) / 2], place);
      place = (place - 1) / 2;
    }
    put(entry, place);
    return place;
  }

  private void sink(int entry, int from) {
    int place = from;
    while (true) {
      int child = 2 * place + 1;
      if (child + 1 < heapSize && order.before(heap[child + 1], heap[child])) {
        child++;
      }
      if (child >= heapSize || !order.before(heap[child], entry)) {
        put(entry, place);
        return;
      }
      put(heap[child], place);
      place = child;
    }
  }

  private void put(int entry, int place) {
    heap[place] = entry;
    index.setInt(entry, heapPlace, place);
  }
}
