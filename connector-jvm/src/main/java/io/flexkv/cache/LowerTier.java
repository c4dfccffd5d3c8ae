package io.flexkv.cache;

import java.util.function.LongSupplier;

/**
 * The tier below the host tier, the SSD: what is written to it and read from it, and how room is
 * made in it. Without one it has no room, and nothing is ever found in it.
 */
final class LowerTier {
  private final SsdTier tier;
  private final SsdWrites writes;
  private final Promotions promotions;
  private final Vacating vacating;

  /**
   * @param host the slots of the host tier
   * @param hostEvictor makes room there for what is read
   * @param evictor makes room here
   */
  LowerTier(
      SsdConfig config,
      SlotPool slots,
      Evictor evictor,
      SlotPool host,
      Evictor hostEvictor,
      BlockIndex index,
      Namespaces namespaces,
      BlockTree tree,
      Leases leases,
      CacheEffects effects,
      Counters counters,
      LongSupplier nanoTime) {
    tier = new SsdTier(config, slots, evictor, index, namespaces, host);
    writes = new SsdWrites(tier, index, namespaces, tree, host, effects, counters);
    promotions =
        new Promotions(tier, index, tree, hostEvictor, leases, effects, counters, nanoTime);
    vacating = new SsdVacating(index, tree, slots);
    leases.onEnd(promotions::left);
  }

  /** What it tells the core. */
  SsdReports reports(
      BlockIndex index,
      Namespaces namespaces,
      BlockTree tree,
      LoadJobs loads,
      Losses losses,
      Counters counters) {
    return new SsdReports(
        tier, index, namespaces, tree, promotions, writes, loads, losses, counters);
  }

  SsdWrites writes() {
    return writes;
  }

  Promotions promotions() {
    return promotions;
  }

  /** See {@link Vacating#comesToBeNeeded}. */
  void comesToBeNeeded(int entry) {
    vacating.comesToBeNeeded(entry);
  }

  /** Goes on with what takes more than a call; returns how much it did. */
  int turn() {
    return promotions.turn() + vacating.step();
  }

  void tick(long now) {
    tier.evictor.workOff();
    promotions.readAhead(now);
    writes.pump();
    vacating.again();
  }

  void hostResized(long hostBytes) {
    tier.hostResized(hostBytes);
  }

  void resized() {
    vacating.resized();
  }

  void use(EvictionSettings eviction) {
    tier.evictor.use(eviction);
  }

  void setRecompute(long tokensPerSecond) {
    tier.setRecompute(tokensPerSecond);
  }

  int quarantinedSlots() {
    return tier.slots.quarantined();
  }

  Counters.SsdUse use() {
    return new Counters.SsdUse(
        promotions.reads(),
        writes.writes(),
        tier.undrained(),
        writes.queuedBytes(),
        tier.slots.capacityBytes(),
        tier.slots.usedBytes());
  }
}
