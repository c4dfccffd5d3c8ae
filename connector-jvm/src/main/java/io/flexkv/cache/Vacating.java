package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import java.util.BitSet;

/**
 * Frees the slots that a tier which has become smaller wants back ({@link SlotAllocator#leaves}).
 *
 * <p>Copies go leaves first: what lies below a copy that has to go goes before it, wherever that
 * lies. What somebody needs (a lease, a load, a transfer, a save) stays, and all above it. So a
 * round first notes what is held in this way, and then, from each copy that may be evicted, goes up
 * as far as a copy has to go that is not held. Else the branches of a prefix that is always in use
 * would be wiped every round, and the prefix would never go. What is held is met again: rounds
 * begin with ticks, until the tier has what it wants, which may take until the traffic that holds a
 * prefix pauses.
 *
 * <p>A round looks at every block twice, a portion a call, because lookups wait meanwhile. What
 * comes to be needed during a round is noted as it does. So a branch goes in vain only if its
 * prefix comes into use after it has gone; what is needed no longer stays for the next round.
 *
 * <p>Cache thread only.
 */
abstract sealed class Vacating permits HostVacating, SsdVacating {
  /** Entries that a call looks at: some 50 µs. A chain is walked to its end, however long. */
  private static final int PORTION = 1024;

  final BlockIndex index;
  final BlockTree tree;
  final Copies copies;
  final SlotPool pool;

  /** Handles of blocks that stay in this round: one is needed, or one below it is. */
  private BitSet held = new BitSet();

  private boolean noting;
  private int next = Integer.MAX_VALUE;
  private int rounds;

  /**
   * @param pool the tier's slots
   */
  Vacating(BlockIndex index, BlockTree tree, SlotPool pool) {
    this.index = index;
    this.tree = tree;
    this.copies = tree.copies();
    this.pool = pool;
  }

  /** The tier has another size. */
  final void resized() {
    rounds = 0;
    next = Integer.MAX_VALUE;
    again();
  }

  /** Begins another round where one is needed and none is under way. */
  final void again() {
    if (!pool.shrinks()) {
      next = Integer.MAX_VALUE;
    } else if (next >= index.handles()) {
      next = 0;
      noting = true;
      held = new BitSet(index.handles());
      rounds++;
    }
  }

  /** The next portion of a round; returns how much it looked at, 0 between rounds. */
  final int step() {
    int looked = 0;
    while (looked < PORTION && next < index.handles()) {
      looked += 1 + (noting ? note(next) : look(next));
      next++;
      if (noting && next >= index.handles()) {
        noting = false;
        next = 0;
      }
    }
    return looked;
  }

  /** Rounds since the last change of the size. */
  final int rounds() {
    return rounds;
  }

  /** Somebody begins to need a block: it is held in this round, if one is under way. */
  final void comesToBeNeeded(int entry) {
    if (next < index.handles()) {
      hold(entry);
    }
  }

  /** Notes what this entry holds, if it is needed; returns how far it looked. */
  private int note(int entry) {
    return index.isEntry(entry) && Copies.hostNeeded(index, entry) ? hold(entry) : 0;
  }

  /** Notes an entry and those above it as held; returns how far it looked. */
  private int hold(int entry) {
    int looked = 0;
    for (int at = first(entry); at != NONE; at = above(at)) {
      held.set(at);
      looked++;
    }
    return looked;
  }

  /** Evicts what must go and may, from this entry upwards; returns how far it looked. */
  private int look(int entry) {
    if (!index.isEntry(entry) || !evictable(entry)) {
      return 0;
    }
    int highest = NONE;
    int looked = 0;
    for (int at = first(entry); at != NONE; at = above(at)) {
      if (leaves(at)) {
        highest = at;
      }
      looked++;
    }
    int at = highest == NONE ? NONE : entry;
    while (at != NONE && evictable(at) && !waits(at)) {
      int above = at == highest ? NONE : tree.parent(at);
      evict(at);
      at = above;
    }
    return looked;
  }

  /** Where a way up begins: at the entry, unless it is held, and so all above it, or stays. */
  private int first(int entry) {
    return !held.get(entry) && inTier(entry) ? entry : NONE;
  }

  /** The next on the way up: what may have to go for the tier's sake and is not held. */
  private int above(int entry) {
    int parent = tree.parent(entry);
    return parent != NONE && !held.get(parent) && parentInTier(parent) ? parent : NONE;
  }

  /** Whether it has a copy in the tier, or lives by one above it. */
  abstract boolean inTier(int entry);

  /** As {@link #inTier}, of the parent of one that is. */
  abstract boolean parentInTier(int parent);

  /** Whether its copy lies in what the tier wants back. */
  abstract boolean leaves(int entry);

  /** Whether it may be evicted now: nothing that goes with it lies below it. */
  abstract boolean evictable(int entry);

  /** Whether to evict it in a later round only. */
  abstract boolean waits(int entry);

  abstract void evict(int entry);
}
