package io.flexkv.events;

import java.util.Arrays;

/**
 * From (group, event hash) to a fact's id by open addressing with linear probing. It keeps ids
 * only; keys are read where the facts are. At most half full; removal shifts back, so there are no
 * tombstones.
 */
final class FactIndex {
  /** Where the keys are. */
  interface Keys {
    long eventHash(int id);

    int group(int id);
  }

  private static final int MIN_CAPACITY = 1024;

  private final Keys keys;

  /** An id plus one; 0 is free. */
  private int[] places = new int[MIN_CAPACITY];

  private int size;

  FactIndex(Keys keys) {
    this.keys = keys;
  }

  int size() {
    return size;
  }

  /** The fact's id, −1 if there is none. */
  int find(int group, long eventHash) {
    int mask = places.length - 1;
    for (int at = home(group, eventHash, mask); places[at] != 0; at = (at + 1) & mask) {
      int id = places[at] - 1;
      if (keys.eventHash(id) == eventHash && keys.group(id) == group) {
        return id;
      }
    }
    return -1;
  }

  /** Adds a fact whose key is not there. */
  void add(int id) {
    if (2 * (size + 1) > places.length) {
      int[] old = places;
      places = new int[2 * old.length];
      for (int place : old) {
        if (place != 0) {
          put(place);
        }
      }
    }
    put(id + 1);
    size++;
  }

  /** Removes a fact that is there. */
  void remove(int id) {
    int mask = places.length - 1;
    int at = homeOf(id, mask);
    while (places[at] != id + 1) {
      if (places[at] == 0) {
        throw new IllegalStateException("fact " + id + " is not in the index");
      }
      at = (at + 1) & mask;
    }
    int hole = at;
    for (int next = (hole + 1) & mask; places[next] != 0; next = (next + 1) & mask) {
      int home = homeOf(places[next] - 1, mask);
      // It may move to the hole unless its home lies between the hole and where it is now.
      if (((next - home) & mask) >= ((next - hole) & mask)) {
        places[hole] = places[next];
        hole = next;
      }
    }
    places[hole] = 0;
    size--;
  }

  void clear() {
    Arrays.fill(places, 0);
    size = 0;
  }

  private void put(int place) {
    int mask = places.length - 1;
    int at = homeOf(place - 1, mask);
    while (places[at] != 0) {
      at = (at + 1) & mask;
    }
    places[at] = place;
  }

  private int homeOf(int id, int mask) {
    return home(keys.group(id), keys.eventHash(id), mask);
  }

  private static int home(int group, long eventHash, int mask) {
    long mixed = (eventHash ^ group * 0x9E3779B97F4A7C15L) * 0xD6E8FEB86659FD93L;
    return (int) (mixed >>> 32) & mask;
  }
}
