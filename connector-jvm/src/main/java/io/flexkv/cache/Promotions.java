package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_READING;
import static io.flexkv.cache.EntryLayout.HOST_THERE;

import java.util.List;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/**
 * Reads from the SSD into the host tier, for requests whose chain goes on there.
 *
 * <p>A request's first lookup that finds such blocks starts nothing: the engine asks it before it
 * knows what it has itself. The second one does ({@link #ask}): host slots are taken for the blocks
 * from the engine's own depth on, as far as bounds and pool allow, and reads begin. Until the first
 * of them is there, lookups say "ask again"; then the request may load all of them, and its load
 * copies each as it comes ({@link AvailableBlocks}). A request that has waited for too long, whose
 * read failed, or which the engine would have computed sooner, gets what the host tier has.
 *
 * <p>Chains that share blocks share their reads. A read that no lease and no load waits for is
 * taken back.
 */
final class Promotions {
  /** A request that was announced so long ago and not asked for waits in the engine's queue. */
  private static final long READ_AHEAD_NANOS = 200_000_000L;

  private final SsdTier tier;
  private final BlockTree tree;
  private final Copies copies;
  private final Leases leases;
  private final Counters counters;
  private final OpenReads open;
  private final ChainReads chains;

  Promotions(
      SsdTier tier,
      BlockIndex index,
      BlockTree tree,
      Evictor evictor,
      Leases leases,
      CacheEffects effects,
      Counters counters,
      LongSupplier nanoTime) {
    this.tier = tier;
    this.tree = tree;
    this.copies = tree.copies();
    this.leases = leases;
    this.counters = counters;
    this.open = new OpenReads(index, copies, effects, counters, nanoTime);
    this.chains = new ChainReads(tier, tree, evictor, leases, effects, open);
  }

  boolean isOpen(long id) {
    return open.get(id) != null;
  }

  int reads() {
    return open.size();
  }

  /** Goes on with what takes more than a turn of the cache thread; returns how much it did. */
  int turn() {
    return chains.turn();
  }

  /**
   * A lookup found that a chain goes on on the SSD: [0, hot) are in the host tier, [0, deep) in
   * some, and the engine has [0, first) itself.
   *
   * @return blocks that can be loaded now, or −1: ask again
   */
  int ask(
      RequestChain chain,
      Namespace namespace,
      int group,
      int first,
      int hot,
      int deep,
      int deepest,
      long now) {
    Lease lease = chain.lease(group);
    if (lease == null || !lease.announced) {
      lease = leases.take(chain, namespace, group, deepest, deep, now);
      lease.announced = true;
      if (first == 0) {
        return -1;
      }
    }
    leases.refresh(lease, now);
    if (lease.declined) {
      return hot;
    }
    if (!lease.asked) {
      lease.asked = true;
      lease.waitUntil = now + tier.config().waitNanos();
      if (lease.promoted == 0 && !isWorthIt(namespace, deep - Math.max(first, hot), now)) {
        return decline(lease, hot);
      }
    }
    if (lease.reading == null && (lease.promoted == 0 || first < lease.promotedFrom)) {
      chains.begin(lease, first, deep, deepest);
    }
    if (failed(lease)) {
      return decline(lease, hot);
    }
    if (lease.reading == null && lease.promoted > first && begun(lease)) {
      if (lease.firstRead != NONE && !chain.ssdHit) { // else no room was found for any
        chain.ssdHit = true;
        counters.ssdHits++;
      }
      return Math.max(hot, Math.min(lease.promoted, deep));
    }
    return now - lease.waitUntil >= 0 ? decline(lease, hot) : -1;
  }

  /**
   * Whether reading so many blocks, behind all that is being read, takes no longer than computing
   * them; also where one of the two is not known.
   */
  private boolean isWorthIt(Namespace namespace, int blocks, long now) {
    double perSecond =
        tier.config().recomputeTokensPerSecond() == 0 || namespace.blockTokens() == 0
            ? namespace.speed.blocksPerSecond()
            : (double) tier.config().recomputeTokensPerSecond() / namespace.blockTokens();
    return perSecond == 0
        || open.secondsFor(blocks * namespace.slotBytes(), now) <= blocks / perSecond;
  }

  /** Whether the first of its blocks that was not in the host tier is there now. */
  private boolean begun(Lease lease) {
    return lease.firstRead == NONE || copies.inHost(lease.firstRead) == HOST_THERE;
  }

  private static boolean failed(Lease lease) {
    for (Promotion read : lease.promotions) {
      if (read.failed) {
        return true;
      }
    }
    return false;
  }

  private int decline(Lease lease, int hot) {
    counters.promotionsDeclined++;
    lease.declined = true;
    left(lease);
    return hot;
  }

  /** A lease ends, or waits no longer: what only it wanted is taken back. */
  void left(Lease lease) {
    chains.stop(lease);
    for (Promotion read : List.copyOf(lease.promotions)) {
      read.leases.remove(lease);
      open.cancelIfUnwanted(read);
    }
    lease.promotions.clear();
  }

  /** A load is planned: it waits for the blocks that are being read. Before its lease ends. */
  void attach(LoadJob job) {
    for (int entry : job.entries) {
      if (copies.inHost(entry) == HOST_READING) {
        Promotion read = open.of(entry);
        if (read != null && read.loads.add(job)) {
          job.promotions.add(read);
        }
      }
    }
    if (!job.promotions.isEmpty()) {
      counters.ssdLoads++;
    }
  }

  /** A load has ended, or is cut: it waits no longer. */
  void left(LoadJob job) {
    for (Promotion read : List.copyOf(job.promotions)) {
      read.loads.remove(job);
      open.cancelIfUnwanted(read);
    }
    job.promotions.clear();
  }

  /** More leading blocks of a read are in their host slots. Returns the read, null if unknown. */
  @Nullable Promotion progress(long id, int ready) {
    Promotion read = open.get(id);
    if (read == null) {
      return null;
    }
    int until = Math.min(ready, read.entries.length);
    open.brought(read, until - read.ready);
    for (; read.ready < until; read.ready++) {
      int entry = read.entries[read.ready];
      if (copies.owned(entry, read.reference)) {
        copies.readDone(entry);
        counters.promotedBlocks++;
      }
    }
    return read;
  }

  /** A read has ended: what has not come does not come. Returns it, null if unknown. */
  @Nullable Promotion ended(long id, int ready) {
    Promotion read = progress(id, ready);
    if (read == null) {
      return null;
    }
    open.end(read);
    if (!read.failed) {
      read.leases.forEach(lease -> lease.promotions.remove(read));
    }
    return read;
  }

  /**
   * Requests that wait in the engine's queue for longer: reads ahead for them, when idle. Nobody
   * waits for such a read yet, but who is asked for then takes what has begun; so it begins only
   * where it would then, too.
   */
  void readAhead(long now) {
    for (Lease lease : leases.announcedBefore(now - READ_AHEAD_NANOS)) {
      if (lease.promoted == 0
          && lease.reading == null
          && !lease.declined
          && open.size() == 0
          && tree.isReady(lease.entry)
          && isWorthIt(lease.namespace, blocksToRead(lease.entry), now)) {
        chains.begin(lease, 0, lease.depth, lease.entry);
      }
    }
  }

  /** Blocks of a chain behind those that the host tier can serve. */
  private int blocksToRead(int deepest) {
    int blocks = 0;
    for (int entry = deepest; entry != NONE && !copies.hot(entry); entry = tree.parent(entry)) {
      blocks++;
    }
    return blocks;
  }
}
