package io.flexkv.cache;

import java.util.function.LongSupplier;

/**
 * What an eviction policy has noted of entries, told apart from what the policies before it had:
 * their notes lie in the same fields, and a change of the policy does not go through millions of
 * entries to wipe them. So each change begins an era, whose number is part of each note; what has
 * another number, or none, is unknown.
 *
 * <p>Times of use are those of the core's clock, each greater than all before ({@link Ticks}),
 * whatever the policy: so a block keeps its own through a change.
 */
final class PolicyEra {
  /** Not told of. */
  static final int UNKNOWN = 0;

  /** Told of, but in no list. */
  static final int KNOWN = 1;

  /** In the list. */
  static final int LISTED = 2;

  /** Of a list that is ordered by time of use: not in it, for it was used last before the era. */
  static final int BACKLOG = 3;

  private static final int STATE_BITS = 2;

  /** Hands out times of use; shared by the policies of one core. */
  static final class Ticks {
    private final LongSupplier nanoTime;
    private long last;

    Ticks(LongSupplier nanoTime) {
      this.nanoTime = nanoTime;
      this.last = nanoTime.getAsLong();
    }

    long next() {
      long now = nanoTime.getAsLong();
      last = now - last > 0 ? now : last + 1;
      return last;
    }

    long last() {
      return last;
    }
  }

  private final BlockIndex index;
  private final int noteField;
  private final int recencyField;
  private final int number;
  private final long began;

  /**
   * Begins now.
   *
   * @param number differs from those of all eras before; 0 for the first one
   */
  PolicyEra(BlockIndex index, PolicyFields fields, int number, Ticks ticks) {
    this.index = index;
    this.noteField = fields.listed();
    this.recencyField = fields.recency();
    this.number = number & (-1 >>> STATE_BITS);
    this.began = ticks.last();
  }

  int get(int entry) {
    int note = index.getInt(entry, noteField);
    return note >>> STATE_BITS == number ? note & ((1 << STATE_BITS) - 1) : UNKNOWN;
  }

  void set(int entry, int state) {
    index.setInt(entry, noteField, number << STATE_BITS | state);
  }

  /** Whether this tier has seen a use of it, whoever the policy was. */
  boolean wasUsed(int entry) {
    return index.getLong(entry, recencyField) != 0;
  }

  /** Whether it was used last before this era. */
  boolean isOlder(int entry) {
    return index.getLong(entry, recencyField) - began <= 0;
  }

  /** A reward that an older policy has given counts no more: nothing of before is in the future. */
  void clampRecency(int entry) {
    if (!isOlder(entry)) {
      index.setLong(entry, recencyField, began);
    }
  }
}
