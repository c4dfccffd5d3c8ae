package io.flexkv.tier.ssd;

import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * A set of identity digests outside the heap, each with one mark. 63 bits of a digest count: two
 * blocks are taken for one by chance only. One thread.
 */
final class DigestSet {
  private final MemorySegment table;
  private final long mask;

  /**
   * @param expected how many will be added at most
   */
  DigestSet(long expected, Arena arena) {
    long capacity = Long.highestOneBit(Math.max(8, expected * 2)) * 2;
    this.mask = capacity - 1;
    this.table = arena.allocate(capacity * 8, 8);
  }

  private static long keyOf(long digest) {
    long key = digest & ~1L;
    return key == 0 ? 2 : key;
  }

  /** Where the digest is, or where it would be. */
  private long find(long key) {
    long at = (key >>> 1) & mask;
    while (true) {
      long there = table.getAtIndex(JAVA_LONG, at);
      if (there == 0 || (there & ~1L) == key) {
        return at;
      }
      at = at + 1 & mask;
    }
  }

  void add(long digest) {
    long key = keyOf(digest);
    long at = find(key);
    if (table.getAtIndex(JAVA_LONG, at) == 0) {
      table.setAtIndex(JAVA_LONG, at, key);
    }
  }

  boolean contains(long digest) {
    return table.getAtIndex(JAVA_LONG, find(keyOf(digest))) != 0;
  }

  boolean isMarked(long digest) {
    return (table.getAtIndex(JAVA_LONG, find(keyOf(digest))) & 1) != 0;
  }

  /** Marks a digest that is in the set. */
  void mark(long digest) {
    long key = keyOf(digest);
    table.setAtIndex(JAVA_LONG, find(key), key | 1);
  }
}
