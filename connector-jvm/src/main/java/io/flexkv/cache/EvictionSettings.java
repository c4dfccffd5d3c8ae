package io.flexkv.cache;

import java.util.Locale;
import java.util.function.IntPredicate;
import java.util.function.LongSupplier;

/**
 * How room is made in each tier. The names and thresholds are the original's.
 *
 * @param policy which block goes
 * @param hitRewardNanos {@code lru} only: how long a hit keeps a block, 0 = plain LRU
 * @param slruProtectedHits {@code slru} only: hits from which a block is protected
 * @param startThreshold share of the tier in use from which on a plan evicts down to that share; 1
 *     = only when there is no room
 * @param ratio least share of the tier that goes when something goes; 0 = only what is needed
 */
public record EvictionSettings(
    Policy policy,
    long hitRewardNanos,
    int slruProtectedHits,
    double startThreshold,
    double ratio) {
  /** What the original offers. */
  public enum Policy {
    LRU,
    LFU,
    SLRU,
    FIFO,
    MRU,
    FILO;

    /** By its name in the options. */
    public static Policy named(String name) {
      return valueOf(name.toUpperCase(Locale.ROOT));
    }
  }

  /** Plain LRU, one block for each that needs its room. */
  public static final EvictionSettings DEFAULT = new EvictionSettings(Policy.LRU, 0, 2, 1, 0);

  /** Checks the ranges. */
  public EvictionSettings {
    if (hitRewardNanos < 0 || slruProtectedHits < 1) {
      throw new IllegalArgumentException(
          "hitRewardNanos=%d, slruProtectedHits=%d, expected 0 and 1 at least"
              .formatted(hitRewardNanos, slruProtectedHits));
    }
    if (!(startThreshold >= 0 && startThreshold <= 1 && ratio >= 0 && ratio <= 1)) {
      throw new IllegalArgumentException(
          "startThreshold=%s, ratio=%s, expected shares from 0 to 1"
              .formatted(startThreshold, ratio));
    }
  }

  /** A policy of an era that begins now: see {@link PolicyEra}. */
  EvictionPolicy create(
      Tier tier, BlockIndex index, int eraNumber, PolicyEra.Ticks ticks, LongSupplier nanoTime) {
    PolicyFields fields = PolicyFields.of(tier);
    PolicyEra era = new PolicyEra(index, fields, eraNumber, ticks);
    IntPredicate evictable = entry -> Copies.evictable(tier, index, entry);
    EvictionOrder order =
        switch (policy) {
          case LRU -> new EvictionOrder.RewardedLru(index, fields, nanoTime, hitRewardNanos);
          case LFU -> new EvictionOrder.Lfu(index, fields, ticks);
          case SLRU -> new EvictionOrder.Slru(index, fields, ticks, slruProtectedHits);
          case FIFO -> new EvictionOrder.ByCreation(index, fields, ticks, false);
          case MRU -> new EvictionOrder.Mru(index, fields, ticks);
          case FILO -> new EvictionOrder.ByCreation(index, fields, ticks, true);
        };
    return policy == Policy.LRU && hitRewardNanos == 0
        ? new LruPolicy(index, fields, era, evictable, ticks)
        : new HeapPolicy(index, fields, era, evictable, order);
  }
}
