package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.SLOT;

/**
 * Frees the host slots that a pool that has become smaller wants back ({@link
 * SlotAllocator#leaves}).
 *
 * <p>It looks at every block in turn, a portion a call, because lookups wait meanwhile. Host copies
 * go leaves first, so it begins at those that may be evicted and goes up as far as a copy above has
 * to go: what lies below such a copy goes with it, wherever that lies. What somebody needs (a
 * lease, a load, a transfer, a save) stays, and all above it: the next round meets it again. Rounds
 * begin with each tick, until the pool has what it wants.
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
  private int next = Integer.MAX_VALUE;
  private int rounds;

  Vacating(BlockIndex index, BlockTree tree, SlotPool pool, SsdWrites writes) {
    this.index = index;
    this.tree = tree;
    this.pool = pool;
    this.writes = writes;
  }

  /** The pool has another size. */
  void resized() {
    rounds = 0;
    again();
  }

  /** Begins another round where one is needed. */
  void again() {
    if (pool.shrinks()) {
      next = 0;
      rounds++;
    } else {
      next = Integer.MAX_VALUE;
    }
  }

  /** The next portion of a round; returns how much it looked at, 0 between rounds. */
  int step() {
    int looked = 0;
    while (looked < PORTION && next < index.handles()) {
      looked += 1 + look(next++);
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
    for (int at = entry;
        at != NONE && tree.copies().inHost(at) != HOST_NONE;
        at = tree.parent(at)) {
      if (pool.leaves(index.getLong(at, SLOT))) {
        highest = at;
      }
      looked++;
    }
    int at = highest == NONE ? NONE : entry;
    while (at != NONE && Copies.hostEvictable(index, at) && !waits(at)) {
      int above = at == highest ? NONE : tree.parent(at);
      tree.evict(Tier.HOST, at);
      at = above;
    }
    return looked;
  }

  private boolean waits(int entry) {
    return rounds <= PATIENT_ROUNDS && writes.savesBeforeItGoes(entry);
  }
}
