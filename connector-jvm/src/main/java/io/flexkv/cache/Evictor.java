package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import org.jspecify.annotations.Nullable;

/**
 * Finds a slot for a block in a tier, at the cost of older ones if it must.
 *
 * <p>As in the original, a plan may have to evict more than it needs: down to {@code
 * evict_start_threshold}, and {@code evict_ratio} of the tier at least. Unlike there, it is done in
 * bounded portions, by this plan, the ticks after it and later plans.
 *
 * <p>Victims of the same size come first: each makes exactly the room that is needed. If there is
 * none, blocks of other sizes go, because the pool gives memory to sizes in whole extents and gets
 * one back when everything in it has gone. How many of those may go is bounded for each save plan,
 * and what was evicted without success is not lost for the pool: it serves the size that had it.
 */
final class Evictor {
  /** Own victims for one block; a second one is needed only if the pool keeps a slot back. */
  private static final int OWN_VICTIMS_MAX = 4;

  private final Tier tier;
  private final EvictionPolicies policies;
  private final BlockTree tree;
  private final SlotPool pool;

  /** Blocks that one plan or one tick evicts beyond what is needed: lookups wait meanwhile. */
  private static final int AHEAD_MAX = 1024;

  private final int foreignVictimsMax;
  private EvictionSettings settings;
  private int foreignVictims;

  /** Bytes still to be evicted ahead of need, and the policy that owes them. */
  private long owedBytes;

  private @Nullable Namespace debtor;

  Evictor(
      Tier tier,
      EvictionPolicies policies,
      BlockTree tree,
      SlotPool pool,
      int foreignVictimsMax,
      EvictionSettings settings) {
    this.tier = tier;
    this.policies = policies;
    this.tree = tree;
    this.pool = pool;
    this.foreignVictimsMax = foreignVictimsMax;
    this.settings = settings;
  }

  /** From now on these thresholds count. */
  void use(EvictionSettings changed) {
    settings = changed;
    owedBytes = 0;
    debtor = null;
  }

  /** Slots are wanted for something else than a plan: evicts no more than what is needed. */
  void begin() {
    foreignVictims = 0;
  }

  /**
   * A new plan begins: it may evict blocks of other sizes up to the bound. Where the settings want
   * more evicted than what is needed, that begins here.
   */
  void begin(Namespace namespace, int blocks) {
    foreignVictims = 0;
    if (settings.ratio() == 0 && settings.startThreshold() == 1) {
      return;
    }
    long total = pool.capacityBytes();
    long free = Math.max(0, total - pool.usedBytes()); // less than 0 where the pool has shrunk
    long lacking = namespace.slotBytes() * blocks - free;
    if (lacking > 0 || total - free >= total * settings.startThreshold()) {
      long wantedFree = (long) (total * (1 - settings.startThreshold()));
      long share = (long) (total * settings.ratio());
      owedBytes = Math.max(Math.max(lacking, wantedFree - free), share);
      debtor = namespace;
      workOff();
    }
  }

  /** Evicts a bounded part of what the settings want evicted ahead of need. */
  void workOff() {
    if (!pool.serves()) {
      return; // it would make no room
    }
    Namespace owing = debtor;
    for (int i = 0; owing != null && owedBytes > 0 && i < AHEAD_MAX; i++) {
      int victim = owing.policy(tier).victim();
      if (victim == NONE) {
        owedBytes = 0;
        break;
      }
      tree.evict(tier, victim);
      owedBytes -= owing.slotBytes();
    }
  }

  /** A slot for a block of this namespace, or {@link SlotAllocator#FULL}. */
  long allocate(Namespace namespace) {
    long bytes = namespace.slotBytes();
    long slot = pool.allocate(bytes);
    for (int i = 0; slot == SlotAllocator.FULL && i < OWN_VICTIMS_MAX; i++) {
      int victim = namespace.policy(tier).victim();
      if (victim == NONE) {
        break;
      }
      tree.evict(tier, victim);
      slot = pool.allocate(bytes);
    }
    while (slot == SlotAllocator.FULL && foreignVictims < foreignVictimsMax) {
      EvictionPolicy other = policies.largestOther(tier, bytes);
      if (other == null) {
        break;
      }
      tree.evict(tier, other.victim());
      foreignVictims++;
      slot = pool.allocate(bytes);
    }
    return slot;
  }
}
