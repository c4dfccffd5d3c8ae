package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

/**
 * Finds a slot for a block, at the cost of older ones if it must.
 *
 * <p>Victims of the same size come first: each makes exactly the room that is needed. If there is
 * none, blocks of other sizes go, because the pool gives memory to sizes in whole extents and gets
 * one back when everything in it has gone. How many of those may go is bounded for each save plan,
 * and what was evicted without success is not lost for the pool: it serves the size that had it.
 */
final class Evictor {
  /** Own victims for one block; a second one is needed only if the pool keeps a slot back. */
  private static final int OWN_VICTIMS_MAX = 4;

  private final Namespaces namespaces;
  private final BlockTree tree;
  private final SlotPool pool;
  private final int foreignVictimsMax;
  private int foreignVictims;

  Evictor(Namespaces namespaces, BlockTree tree, SlotPool pool, int foreignVictimsMax) {
    this.namespaces = namespaces;
    this.tree = tree;
    this.pool = pool;
    this.foreignVictimsMax = foreignVictimsMax;
  }

  /** A new plan begins: it may evict blocks of other sizes up to the bound. */
  void begin() {
    foreignVictims = 0;
  }

  /** A slot for a block of this namespace, or {@link SlotAllocator#FULL}. */
  long allocate(Namespace namespace) {
    long bytes = namespace.slotBytes();
    long slot = pool.allocate(bytes);
    for (int i = 0; slot == SlotAllocator.FULL && i < OWN_VICTIMS_MAX; i++) {
      int victim = namespace.policy().victim();
      if (victim == NONE) {
        break;
      }
      tree.evict(victim);
      slot = pool.allocate(bytes);
    }
    while (slot == SlotAllocator.FULL && foreignVictims < foreignVictimsMax) {
      EvictionPolicy other = namespaces.largestOther(bytes);
      if (other == null) {
        break;
      }
      tree.evict(other.victim());
      foreignVictims++;
      slot = pool.allocate(bytes);
    }
    return slot;
  }
}
