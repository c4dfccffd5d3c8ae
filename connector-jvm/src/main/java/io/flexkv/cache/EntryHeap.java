package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import java.util.Arrays;

/**
 * A binary heap of entries, each of which knows its place in it, so every call is O(log n),
 * amortised.
 */
final class EntryHeap {
  /** Which of two entries is nearer to the top. */
  @FunctionalInterface
  interface Order {
    boolean before(int a, int b);
  }

  private static final int MIN_CAPACITY = 64;

  private final BlockIndex index;
  private final int placeField;
  private final Order order;
  private int[] heap = new int[MIN_CAPACITY];
  private int size;

  /**
   * An empty heap.
   *
   * @param placeField where an entry keeps its place; {@link BlockIndex#NONE} once taken out
   */
  EntryHeap(BlockIndex index, int placeField, Order order) {
    this.index = index;
    this.placeField = placeField;
    this.order = order;
  }

  /** The first, or NONE. */
  int top() {
    return size == 0 ? NONE : heap[0];
  }

  /** Adds an entry that is not in it. */
  void insert(int entry) {
    if (size == heap.length) {
      heap = Arrays.copyOf(heap, Math.multiplyExact(2, size));
    }
    put(entry, size++);
    settle(entry);
  }

  /** Takes out an entry that is in it. */
  void takeOut(int entry) {
    int place = index.getInt(entry, placeField);
    index.setInt(entry, placeField, NONE);
    int last = heap[--size];
    if (last != entry) {
      put(last, place);
      settle(last);
    }
  }

  /** Moves an entry that is in it to where its order wants it now. */
  void settle(int entry) {
    sink(entry, rise(entry, index.getInt(entry, placeField)));
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
      if (child + 1 < size && order.before(heap[child + 1], heap[child])) {
        child++;
      }
      if (child >= size || !order.before(heap[child], entry)) {
        put(entry, place);
        return;
      }
      put(heap[child], place);
      place = child;
    }
  }

  private void put(int entry, int place) {
    heap[place] = entry;
    index.setInt(entry, placeField, place);
  }
}
