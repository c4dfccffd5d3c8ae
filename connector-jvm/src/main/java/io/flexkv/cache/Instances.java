package io.flexkv.cache;

import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** The engines that are known, and the chains of their requests. */
final class Instances {
  private final CacheConfig config;
  private final Leases leases;
  private final LongMap<Instance> byId = new LongMap<>();
  private final Instance.ChainUse use = new Instance.ChainUse();

  Instances(CacheConfig config, Leases leases) {
    this.config = config;
    this.leases = leases;
  }

  /** See {@link CacheCore#openInstance}. */
  void open(int id, Namespace namespace) {
    Instance known = byId.get(id);
    if (known != null) {
      if (known.namespace != namespace) {
        throw new IllegalArgumentException(
            "instance %d is open in namespace %d, wanted %d"
                .formatted(id, known.namespace.handle(), namespace.handle()));
      }
      return;
    }
    if (byId.size() == config.maxInstances()) {
      throw new IllegalStateException(
          "%d instances are open, at most %d".formatted(byId.size(), config.maxInstances()));
    }
    byId.putNew(id, new Instance(id, namespace, config, leases, use));
  }

  /** Ends an instance with its chains and leases; false if it is not open. */
  boolean close(int id) {
    Instance instance = byId.remove(id);
    if (instance == null) {
      return false;
    }
    instance.endAll();
    return true;
  }

  @Nullable Instance get(int id) {
    return byId.get(id);
  }

  /** See {@link CacheCore#extendChain}. */
  boolean extendChain(
      int id,
      long requestId,
      int firstIndex,
      MemorySegment hashes,
      long offset,
      int hashBytes,
      int count) {
    Instance instance = byId.get(id);
    return instance != null
        && instance.extend(requestId, firstIndex, hashes, offset, hashBytes, count);
  }

  void endRequest(int id, long requestId) {
    Instance instance = byId.get(id);
    if (instance != null) {
      instance.end(requestId);
    }
  }

  int size() {
    return byId.size();
  }

  /** Requests with a chain. */
  int chains() {
    return use.chains;
  }

  long chainBlocks() {
    return use.blocks;
  }
}
