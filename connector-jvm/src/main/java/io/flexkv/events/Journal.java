package io.flexkv.events;

/**
 * The latest changes of a namespace, for any number of readers: a ring that never waits. A reader
 * that fell behind by more than its capacity has lost some, and must take a listing instead.
 */
final class Journal {
  static final int CAPACITY = 1 << 16;

  private final long[] hashes = new long[CAPACITY];
  private final int[] changes = new int[CAPACITY];
  private long next;

  /** The position that the next change gets. */
  long next() {
    return next;
  }

  /** Whether a position, below {@link #next}, is still there. */
  boolean has(long position) {
    return next - position <= CAPACITY;
  }

  void add(int kind, int tier, int group, long eventHash) {
    int at = (int) next & (CAPACITY - 1);
    hashes[at] = eventHash;
    changes[at] = kind << 24 | tier << 16 | group;
    next++;
  }

  long eventHash(long position) {
    return hashes[(int) position & (CAPACITY - 1)];
  }

  /** Kind, tier and group in one word, equal for changes that may share a notice. */
  int change(long position) {
    return changes[(int) position & (CAPACITY - 1)];
  }

  static int kind(int change) {
    return change >>> 24;
  }

  static int tier(int change) {
    return change >>> 16 & 0xFF;
  }

  static int group(int change) {
    return change & 0xFFFF;
  }
}
