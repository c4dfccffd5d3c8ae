package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.SLOT;

import java.util.BitSet;

/**
 * Frees the host slots that a pool that has become smaller wants back ({@link
 * SlotAllocator#leaves}).
 *
 * <p>Host copies go leaves first: what lies below a copy that has to go goes before it, wherever
 * that lies. What somebody needs (a lease, a load, a transfer, a save) stays, and all above it. So
 * a round first notes what is held in this way, and then, from each copy that may be evicted, goes
 * up as far as a copy has to go that is not held. Else the branches of a prefix that is always in
 * use would be wiped every round, and the prefix would never go. What is held is met again: rounds
 * begin with ticks, until the pool has what it wants, which may take until the traffic that holds a
 * prefix pauses.
 *
 * <p>A round looks at every block twice, a portion a call, because lookups wait meanwhile. What
 * comes to be needed during a round is noted as it does. So a branch goes in vain only if its
 * prefix comes into use after it has gone; what is needed no longer stays for the next round.
 *
 * <p>Cache thread only.
 */
final class Vacating {
  /** Entries that a call looks at: some 50 µs. A chain is walked to its end, however long. */
  private static final int PORTION = 1024;

  /** Write-back: as many rounds leave a block that is not on the SSD time to get there. */
  private static final int PATIENT_ROUNDS = 20;

  private final BlockIndex index;
  private final BlockTree tree;
  private final SlotPool pool;
  private final SsdWrites writes;

  /** Handles of host copies that stay in this round: one is needed, or one below it is. */
  private BitSet held = new BitSet();

  private boolean noting;
  private int next = Integer.MAX_VALUE;
  private int rounds;

  Vacating(BlockIndex index, BlockTree tree, SlotPool pool, SsdWrites writes) {
    this.index = index;
    this.tree = tree;
    this.pool = pool;
    this.writes = writes;
    tree.copies().onNeed(this::needed);
  }

  /** The pool has another size. */
  void resized() {
    rounds = 0;
    next = Integer.MAX_VALUE;
    again();
  }

  /** Begins another round where one is needed and none is under way. */
  void again() {
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
  int step() {
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

  /** Somebody begins to need a block: it is held in this round, if one is under way. */
  private void needed(int entry) {
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
    for (int at = entry; mayHaveToGo(at); at = tree.parent(at)) {
      held.set(at);
      looked++;
    }
    return looked;
  }

  /** Evicts what must go and may, from this entry upwards; returns how far it looked. */
  private int look(int entry) {
    if (!index.isEntry(entry) || !Copies.hostEvictable(index, entry)) {
      return 0;
    }
    int highest = NONE;
    int looked = 0;
    for (int at = entry; mayHaveToGo(at); at = tree.parent(at)) {
      if (pool.leaves(index.getLong(at, SLOT))) {
        highest = at;
      }
      looked++;
    }
    if (highest != NONE) {
      evict(entry, highest);
    }
    return looked;
  }

  /** Whether it is a host copy that is not held, as all above one that is are. */
  private boolean mayHaveToGo(int entry) {
    return entry != NONE && tree.copies().inHost(entry) != HOST_NONE && !held.get(entry);
  }

  private void evict(int lowest, int highest) {
    int at = lowest;
    while (at != NONE && Copies.hostEvictable(index, at) && !waits(at)) {
      int above = at == highest ? NONE : tree.parent(at);
      tree.evict(Tier.HOST, at);
      at = above;
    }
  }

  private boolean waits(int entry) {
    return rounds <= PATIENT_ROUNDS && writes.savesBeforeItGoes(entry);
  }
}
