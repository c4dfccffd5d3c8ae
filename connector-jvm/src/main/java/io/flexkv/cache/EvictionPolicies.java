package io.flexkv.cache;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/** The eviction policies, one for each slot size in each tier, all of one kind. */
final class EvictionPolicies {
  private final BlockIndex index;
  private final LongSupplier nanoTime;
  private final PolicyEra.Ticks ticks;
  private final Map<Long, EvictionPolicy> host = new LinkedHashMap<>();
  private final Map<Long, EvictionPolicy> ssd = new LinkedHashMap<>();
  private EvictionSettings settings;
  private int era;

  EvictionPolicies(BlockIndex index, EvictionSettings settings, LongSupplier nanoTime) {
    this.index = index;
    this.settings = settings;
    this.nanoTime = nanoTime;
    this.ticks = new PolicyEra.Ticks(nanoTime);
  }

  /** Those made from now on are of this kind, and those made before are forgotten. */
  void use(EvictionSettings changed) {
    settings = changed;
    era++;
    host.clear();
    ssd.clear();
  }

  private Map<Long, EvictionPolicy> in(Tier tier) {
    return tier == Tier.HOST ? host : ssd;
  }

  EvictionPolicy of(Tier tier, long slotBytes) {
    return in(tier)
        .computeIfAbsent(slotBytes, bytes -> settings.create(tier, index, era, ticks, nanoTime));
  }

  /** Of those of other slot sizes that have a victim, the one with most bytes; or null. */
  @Nullable EvictionPolicy largestOther(Tier tier, long slotBytes) {
    EvictionPolicy largest = null;
    long most = 0;
    for (Map.Entry<Long, EvictionPolicy> size : in(tier).entrySet()) {
      EvictionPolicy policy = size.getValue();
      long bytes = size.getKey() * policy.size();
      if (size.getKey() != slotBytes && bytes > most && policy.victim() != BlockIndex.NONE) {
        largest = policy;
        most = bytes;
      }
    }
    return largest;
  }
}
