package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.FIRST_CHILD;
import static io.flexkv.cache.EntryLayout.LISTED;
import static io.flexkv.cache.EntryLayout.NAMESPACE;
import static io.flexkv.cache.EntryLayout.NEWER;
import static io.flexkv.cache.EntryLayout.NEXT_SIBLING;
import static io.flexkv.cache.EntryLayout.OLDER;
import static io.flexkv.cache.EntryLayout.PARENT;
import static io.flexkv.cache.EntryLayout.READY;
import static io.flexkv.cache.EntryLayout.RECENCY;
import static io.flexkv.cache.EntryLayout.STATE;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/** The namespaces by handle and by digest, and the eviction policy of each slot size. */
final class Namespaces {
  private record Digest(long hi, long lo) {}

  private final CacheConfig config;
  private Supplier<EvictionPolicy> newPolicy;
  private final List<Namespace> byHandle = new ArrayList<>();
  private final Map<Digest, Namespace> byDigest = new LinkedHashMap<>();
  private final Map<Long, EvictionPolicy> policies = new LinkedHashMap<>();

  Namespaces(CacheConfig config, Supplier<EvictionPolicy> newPolicy) {
    this.config = config;
    this.newPolicy = newPolicy;
  }

  Namespace open(long digestHi, long digestLo, int parts, long[] partBytes) {
    check(parts, partBytes);
    Digest digest = new Digest(digestHi, digestLo);
    Namespace known = byDigest.get(digest);
    if (known != null) {
      if (!Arrays.equals(known.partBytes(), partBytes)) {
        throw new IllegalArgumentException(
            "namespace %016x%016x has parts of %s bytes, another client says %s"
                .formatted(
                    digestHi,
                    digestLo,
                    Arrays.toString(known.partBytes()),
                    Arrays.toString(partBytes)));
      }
      return known;
    }
    if (byHandle.size() == config.maxNamespaces()) {
      throw new IllegalStateException(
          "%d namespaces are open, at most %d".formatted(byHandle.size(), config.maxNamespaces()));
    }
    EvictionPolicy policy =
        policies.computeIfAbsent(Namespace.sum(partBytes), bytes -> newPolicy.get());
    Namespace opened =
        new Namespace(
            byHandle.size(), digestHi, digestLo, partBytes.clone(), policy, config.maxGroups());
    byHandle.add(opened);
    byDigest.put(digest, opened);
    return opened;
  }

  /** Gives every slot size a new policy and tells it of the blocks, the least recent first. */
  void replacePolicies(BlockIndex index, Supplier<EvictionPolicy> changed) {
    newPolicy = changed;
    policies.clear();
    List<Integer> servable = new ArrayList<>();
    for (Namespace namespace : byHandle) {
      namespace.usePolicy(
          policies.computeIfAbsent(namespace.slotBytes(), bytes -> newPolicy.get()));
      collect(index, namespace.firstRoot, servable);
    }
    servable.sort(Comparator.comparingLong(entry -> index.getLong(entry, RECENCY)));
    for (int entry : servable) {
      index.setInt(entry, OLDER, NONE);
      index.setInt(entry, NEWER, NONE);
      index.setInt(entry, LISTED, 0);
      require(index.getInt(entry, NAMESPACE)).policy().add(entry);
    }
  }

  /** The servable entries of a list of siblings and below; the links are the stack. */
  private static void collect(BlockIndex index, int first, List<Integer> servable) {
    int node = first;
    while (node != NONE) {
      int next = NONE;
      if (index.getInt(node, STATE) == READY) {
        servable.add(node);
        next = index.getInt(node, FIRST_CHILD);
      }
      while (next == NONE && node != NONE) {
        next = index.getInt(node, NEXT_SIBLING);
        node = index.getInt(node, PARENT);
      }
      node = next;
    }
  }

  /** The namespace of a handle, or null. */
  @Nullable Namespace get(int handle) {
    return handle >= 0 && handle < byHandle.size() ? byHandle.get(handle) : null;
  }

  /** The namespace of a handle that came from here. */
  Namespace require(int handle) {
    Namespace namespace = get(handle);
    if (namespace == null) {
      throw new IllegalArgumentException(
          "namespace %d, known are %d".formatted(handle, byHandle.size()));
    }
    return namespace;
  }

  int size() {
    return byHandle.size();
  }

  /** Of the policies of other slot sizes that have a victim, the one with most bytes; or null. */
  @Nullable EvictionPolicy largestOther(long slotBytes) {
    EvictionPolicy largest = null;
    long most = 0;
    for (Map.Entry<Long, EvictionPolicy> size : policies.entrySet()) {
      EvictionPolicy policy = size.getValue();
      long bytes = size.getKey() * policy.size();
      if (size.getKey() != slotBytes && bytes > most && policy.victim() != BlockIndex.NONE) {
        largest = policy;
        most = bytes;
      }
    }
    return largest;
  }

  private void check(int parts, long[] partBytes) {
    if (parts < 1 || parts > config.maxParts() || partBytes.length != parts) {
      throw new IllegalArgumentException(
          "%d parts with %d sizes, expected 1 to %d of each"
              .formatted(parts, partBytes.length, config.maxParts()));
    }
    for (long bytes : partBytes) {
      if (bytes <= 0) {
        throw new IllegalArgumentException(
            "parts of %s bytes, expected positive sizes".formatted(Arrays.toString(partBytes)));
      }
    }
  }
}
