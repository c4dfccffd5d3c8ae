package io.flexkv.cache;

import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** One engine: its namespace and the chains of its requests. */
final class Instance {
  /** Blocks of the chains of all instances. */
  static final class ChainUse {
    int chains;
    long blocks;
  }

  final int id;
  final Namespace namespace;
  private final CacheConfig config;
  private final Leases leases;
  private final ChainUse use;
  private final LongMap<RequestChain> chains = new LongMap<>();

  Instance(int id, Namespace namespace, CacheConfig config, Leases leases, ChainUse use) {
    this.id = id;
    this.namespace = namespace;
    this.config = config;
    this.leases = leases;
    this.use = use;
  }

  @Nullable RequestChain chain(long requestId) {
    return chains.get(requestId);
  }

  /** See {@link CacheCore#extendChain}. */
  boolean extend(
      long requestId, int firstIndex, MemorySegment hashes, long offset, int hashBytes, int count) {
    RequestChain chain = chains.get(requestId);
    int known = chain == null ? 0 : chain.blocks();
    if (!wellFormed(firstIndex, hashes, offset, hashBytes, count)
        || firstIndex > known
        || (chain != null && !chain.agrees(firstIndex, hashes, offset, hashBytes, count))) {
      end(requestId);
      return false;
    }
    int added = Math.max(0, firstIndex + count - known);
    if (use.blocks + added > config.maxChainBlocksTotal()
        || (chain == null && chains.size() == config.maxChainsPerInstance())) {
      end(requestId);
      return false;
    }
    if (chain == null) {
      chain = new RequestChain(namespace.generation());
      chains.putNew(requestId, chain);
      use.chains++;
    }
    chain.append(firstIndex, hashes, offset, hashBytes, count);
    use.blocks += added;
    return true;
  }

  /** Ends a request's chain and its leases, if there is one. */
  void end(long requestId) {
    RequestChain chain = chains.remove(requestId);
    if (chain != null) {
      forget(chain);
    }
  }

  void endAll() {
    chains.forEach(this::forget);
    chains.clear();
  }

  private void forget(RequestChain chain) {
    leases.endAll(chain);
    use.chains--;
    use.blocks -= chain.blocks();
  }

  private boolean wellFormed(
      int firstIndex, MemorySegment hashes, long offset, int hashBytes, int count) {
    return hashBytes >= BlockKey.MIN_HASH_BYTES
        && hashBytes <= BlockKey.MAX_HASH_BYTES
        && firstIndex >= 0
        && count >= 0
        && count <= config.maxChainBlocks() - firstIndex
        && offset >= 0
        && (long) hashBytes * count <= hashes.byteSize() - offset;
  }
}
