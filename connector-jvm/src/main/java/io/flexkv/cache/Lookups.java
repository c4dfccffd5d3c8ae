package io.flexkv.cache;

import io.flexkv.cache.ChainSearch.Level;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/**
 * Answers lookups: how deep a chain is servable, and the lease on that. Where it goes on in the
 * tier below, {@link Promotions} says whether to wait for it. Allocates nothing, except for leases
 * and reads that begin. Counts requests, not their questions: one that waits asks again and again.
 */
final class Lookups {
  private final BlockTree tree;
  private final ChainSearch search;
  private final Leases leases;
  private final LowerTier lower;
  private final Counters counters;
  private final LongSupplier nanoTime;
  private final LookupResult result = new LookupResult();

  Lookups(
      BlockTree tree, Leases leases, LowerTier lower, Counters counters, LongSupplier nanoTime) {
    this.tree = tree;
    this.search = new ChainSearch(tree);
    this.leases = leases;
    this.lower = lower;
    this.counters = counters;
    this.nanoTime = nanoTime;
  }

  /** See {@link CacheCore#lookup}. */
  LookupResult lookup(
      @Nullable Instance instance, long requestId, int groupId, int firstBlock, int maxBlocks) {
    if (instance == null) {
      return result.set(0, 0, 0, 0, 0);
    }
    Namespace namespace = instance.namespace;
    RequestChain chain = instance.chain(requestId);
    if (chain != null && !chain.lookedUp) {
      chain.lookedUp = true;
      counters.lookups++;
    }
    if (chain == null || !namespace.hasGroup(groupId) || firstBlock < 0 || maxBlocks < 0) {
      return result.set(0, 0, 0, 0, namespace.generation());
    }
    chain.generation = namespace.generation();
    KeySalt salt = namespace.salt(groupId);
    int limit = (int) Math.min(chain.blocks(), (long) firstBlock + maxBlocks);
    long now = nanoTime.getAsLong();
    int hot = search.depth(chain, salt, 0, limit, Level.HOT);
    int deep = search.depth(chain, salt, hot, limit, Level.SERVABLE);
    int resident = search.depth(chain, salt, deep, chain.blocks(), Level.PRESENT);
    int servable = hot;
    if (deep > Math.max(hot, firstBlock)) {
      int deepest = search.find(chain, salt, deep - 1);
      servable =
          lower.promotions().ask(chain, namespace, groupId, firstBlock, hot, deep, deepest, now);
      if (servable < 0) {
        return result
            .set(chain.blocks(), hot, resident, 0, namespace.generation())
            .withTiers(hot, deep, true);
      }
    }
    long leaseId = 0;
    if (servable > 0) {
      int deepest = search.find(chain, salt, servable - 1);
      tree.copies().touch(deepest);
      lower.writes().hit(deepest);
      if (servable > firstBlock) {
        counters.hits += chain.isHit() ? 0 : 1;
        counters.hitBlocks += chain.foundMore(groupId, servable - firstBlock);
        leaseId = leases.take(chain, namespace, groupId, deepest, servable, now).id;
      }
    }
    result.set(chain.blocks(), servable, resident, leaseId, namespace.generation());
    return result.withTiers(hot, deep, false);
  }
}
