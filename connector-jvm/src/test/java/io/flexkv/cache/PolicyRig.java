package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.CHILDREN;
import static io.flexkv.cache.EntryLayout.HOST;
import static io.flexkv.cache.EntryLayout.HOST_THERE;
import static io.flexkv.cache.EntryLayout.PARENT;
import static io.flexkv.cache.EntryLayout.PINS;
import static io.flexkv.cache.EntryLayout.READY;
import static io.flexkv.cache.EntryLayout.SSD;
import static io.flexkv.cache.EntryLayout.SSD_CHILDREN;
import static io.flexkv.cache.EntryLayout.SSD_HELD;
import static io.flexkv.cache.EntryLayout.SSD_NONE;
import static io.flexkv.cache.EntryLayout.STATE;

/** An index and a policy that is told what BlockTree tells it, without plans, slots and leases. */
final class PolicyRig {
  final BlockIndex index = new OffHeapBlockIndex(3);
  private final PolicyEra.Ticks ticks = new PolicyEra.Ticks(() -> this.now);
  private int era;
  EvictionPolicy policy;
  private final Tier tier;
  long now = 1_000;
  private long nextKey = 1;

  /**
   * Of blocks that are in the host tier alone, or in both tiers, of which this one is looked at.
   */
  PolicyRig(EvictionSettings settings, Tier tier) {
    this.tier = tier;
    policy = settings.create(tier, index, era, ticks, () -> now);
  }

  /** A new policy, which knows nothing of what is there. */
  void change(EvictionSettings settings) {
    policy = settings.create(tier, index, ++era, ticks, () -> now);
  }

  /** A new servable block under a parent, or NONE. */
  int add(int parent) {
    int entry = index.insert(nextKey, nextKey++);
    index.setInt(entry, PARENT, parent);
    index.setInt(entry, STATE, READY);
    index.setInt(entry, HOST, HOST_THERE);
    index.setInt(entry, SSD, tier == Tier.SSD ? SSD_HELD : SSD_NONE);
    if (parent != NONE) {
      addTo(parent, CHILDREN, 1);
      addTo(parent, SSD_CHILDREN, tier == Tier.SSD ? 1 : 0);
    }
    policy.add(entry);
    return entry;
  }

  private int addTo(int entry, int field, int change) {
    int now = index.getInt(entry, field) + change;
    index.setInt(entry, field, now);
    return now;
  }

  void pin(int entry) {
    index.setInt(entry, PINS, index.getInt(entry, PINS) + 1);
  }

  void unpin(int entry) {
    int pins = index.getInt(entry, PINS) - 1;
    index.setInt(entry, PINS, pins);
    if (pins == 0) {
      policy.released(entry);
    }
  }

  boolean isLeaf(int entry) {
    return index.getInt(entry, CHILDREN) == 0;
  }

  /** A leaf goes. */
  void remove(int entry) {
    int parent = index.getInt(entry, PARENT);
    if (parent != NONE) {
      addTo(parent, SSD_CHILDREN, tier == Tier.SSD ? -1 : 0);
      if (addTo(parent, CHILDREN, -1) == 0) {
        policy.inherit(parent, entry);
      }
    }
    policy.remove(entry);
    index.remove(entry);
  }
}
