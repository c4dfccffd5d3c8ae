package io.flexkv.cache;

import java.util.Arrays;

/**
 * {@link BlockIndex} on the heap: open addressing with linear probing over handles, entries as rows
 * of two arrays. Removed handles are used again, last out first in.
 */
final class HeapBlockIndex implements BlockIndex {
  private static final int MIN_CAPACITY = 64;

  private final long seed;

  /** Handle + 1 of the entry at this place, 0 if empty; at most half full. */
  private int[] table = new int[2 * MIN_CAPACITY];

  private long[] longs = new long[MIN_CAPACITY * EntryLayout.LONGS];
  private int[] ints = new int[MIN_CAPACITY * EntryLayout.INTS];
  private int[] free = new int[MIN_CAPACITY];
  private int freeCount;
  private int highWater;
  private int size;

  /**
   * An empty index.
   *
   * @param seed where keys fall in the table depends on it, and nothing else does
   */
  HeapBlockIndex(long seed) {
    this.seed = KeySalt.mix(seed);
  }

  @Override
  public int find(long keyHi, long keyLo) {
    int mask = table.length - 1;
    for (int i = home(keyHi, keyLo, mask); ; i = (i + 1) & mask) {
      int entry = table[i] - 1;
      if (entry == NONE) {
        return NONE;
      }
      if (holds(entry, keyHi, keyLo)) {
        return entry;
      }
    }
  }

  @Override
  public int insert(long keyHi, long keyLo) {
    if (2 * (size + 1) > table.length) {
      rehash(Math.multiplyExact(2, table.length));
    }
    int mask = table.length - 1;
    int i = home(keyHi, keyLo, mask);
    while (table[i] != 0) {
      if (holds(table[i] - 1, keyHi, keyLo)) {
        throw new IllegalStateException("key %016x%016x is taken".formatted(keyHi, keyLo));
      }
      i = (i + 1) & mask;
    }
    int entry = freeCount > 0 ? free[--freeCount] : grown(highWater++);
    table[i] = entry + 1;
    size++;
    clearRow(entry);
    setLong(entry, EntryLayout.KEY_HI, keyHi);
    setLong(entry, EntryLayout.KEY_LO, keyLo);
    return entry;
  }

  @Override
  public void remove(int entry) {
    int mask = table.length - 1;
    long keyHi = getLong(entry, EntryLayout.KEY_HI);
    long keyLo = getLong(entry, EntryLayout.KEY_LO);
    int i = home(keyHi, keyLo, mask);
    while (table[i] != entry + 1) {
      if (table[i] == 0) {
        throw new IllegalStateException("entry " + entry + " is not in the index");
      }
      i = (i + 1) & mask;
    }
    closeGap(i, mask);
    size--;
    if (freeCount == free.length) {
      free = Arrays.copyOf(free, 2 * freeCount);
    }
    free[freeCount++] = entry;
  }

  @Override
  public int getInt(int entry, int field) {
    return ints[entry * EntryLayout.INTS + field];
  }

  @Override
  public void setInt(int entry, int field, int value) {
    ints[entry * EntryLayout.INTS + field] = value;
  }

  @Override
  public long getLong(int entry, int field) {
    return longs[entry * EntryLayout.LONGS + field];
  }

  @Override
  public void setLong(int entry, int field, long value) {
    longs[entry * EntryLayout.LONGS + field] = value;
  }

  @Override
  public boolean isEntry(int handle) {
    return find(getLong(handle, EntryLayout.KEY_HI), getLong(handle, EntryLayout.KEY_LO)) == handle;
  }

  @Override
  public int handles() {
    return highWater;
  }

  @Override
  public int size() {
    return size;
  }

  private boolean holds(int entry, long keyHi, long keyLo) {
    int row = entry * EntryLayout.LONGS;
    return longs[row + EntryLayout.KEY_LO] == keyLo && longs[row + EntryLayout.KEY_HI] == keyHi;
  }

  private int home(long keyHi, long keyLo, int mask) {
    return (int) KeySalt.mix((keyLo ^ seed) + Long.rotateLeft(keyHi, 23)) & mask;
  }

  private int home(int entry, int mask) {
    return home(getLong(entry, EntryLayout.KEY_HI), getLong(entry, EntryLayout.KEY_LO), mask);
  }

  private int grown(int entry) {
    int rows = ints.length / EntryLayout.INTS;
    if (entry >= rows) {
      int wanted = Math.addExact(rows, rows);
      longs = Arrays.copyOf(longs, Math.multiplyExact(wanted, EntryLayout.LONGS));
      ints = Arrays.copyOf(ints, Math.multiplyExact(wanted, EntryLayout.INTS));
    }
    return entry;
  }

  private void clearRow(int entry) {
    int l = entry * EntryLayout.LONGS;
    Arrays.fill(longs, l, l + EntryLayout.LONGS, 0);
    int i = entry * EntryLayout.INTS;
    Arrays.fill(ints, i, i + EntryLayout.INTS, 0);
    setInt(entry, EntryLayout.PARENT, NONE);
    setInt(entry, EntryLayout.FIRST_CHILD, NONE);
    setInt(entry, EntryLayout.NEXT_SIBLING, NONE);
    setInt(entry, EntryLayout.PREVIOUS_SIBLING, NONE);
    setInt(entry, EntryLayout.OWNER, NONE);
    setInt(entry, EntryLayout.OLDER, NONE);
    setInt(entry, EntryLayout.NEWER, NONE);
    setInt(entry, EntryLayout.SSD_OLDER, NONE);
    setInt(entry, EntryLayout.SSD_NEWER, NONE);
  }

  /** Moves later entries of the probe chain back, so that no lookup stops too early. */
  private void closeGap(int removed, int mask) {
    int gap = removed;
    for (int i = (gap + 1) & mask; table[i] != 0; i = (i + 1) & mask) {
      int distance = (i - home(table[i] - 1, mask)) & mask;
      if (distance >= ((i - gap) & mask)) {
        table[gap] = table[i];
        gap = i;
      }
    }
    table[gap] = 0;
  }

  private void rehash(int capacity) {
    int[] old = table;
    table = new int[capacity];
    int mask = capacity - 1;
    for (int place : old) {
      if (place != 0) {
        int i = home(place - 1, mask);
        while (table[i] != 0) {
          i = (i + 1) & mask;
        }
        table[i] = place;
      }
    }
  }
}
