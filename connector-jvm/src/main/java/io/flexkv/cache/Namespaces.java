package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.FIRST_CHILD;
import static io.flexkv.cache.EntryLayout.HOST;
import static io.flexkv.cache.EntryLayout.HOST_THERE;
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

/**
 * The namespaces by handle and by digest, and the eviction policy of each slot size in each tier.
 */
final class Namespaces {
  private record Digest(long hi, long lo) {}

  private final CacheConfig config;
  private final Supplier<EvictionPolicy> newSsdPolicy;
  private Supplier<EvictionPolicy> newHostPolicy;
  private final List<Namespace> byHandle = new ArrayList<>();
  private final Map<Digest, Namespace> byDigest = new LinkedHashMap<>();
  private final Map<Long, EvictionPolicy> hostPolicies = new LinkedHashMap<>();
  private final Map<Long, EvictionPolicy> ssdPolicies = new LinkedHashMap<>();

  Namespaces(
      CacheConfig config,
      Supplier<EvictionPolicy> newHostPolicy,
      Supplier<EvictionPolicy> newSsdPolicy) {
    this.config = config;
    this.newHostPolicy = newHostPolicy;
    this.newSsdPolicy = newSsdPolicy;
  }

  /**
   * See {@link CacheCore#openNamespace}.
   *
   * @param generation where a namespace that was not known begins
   */
  Namespace open(long digestHi, long digestLo, int parts, long[] partBytes, int generation) {
    check(parts, partBytes);
    Namespace known = byDigest.get(new Digest(digestHi, digestLo));
    long slotBytes = Namespace.sum(partBytes);
    if (known == null) {
      known = add(digestHi, digestLo, slotBytes, generation);
    } else if (known.slotBytes() != slotBytes
        || (known.parts() != 0 && !Arrays.equals(known.partBytes(), partBytes))) {
      throw new IllegalArgumentException(
          "namespace %016x%016x has parts of %s bytes, %d in all, another client says %s"
              .formatted(
                  digestHi,
                  digestLo,
                  Arrays.toString(known.partBytes()),
                  known.slotBytes(),
                  Arrays.toString(partBytes)));
    }
    if (known.parts() == 0) {
      known.setPartBytes(partBytes.clone());
    }
    return known;
  }

  /** The namespace of blocks that were found on an SSD, or null if it cannot be opened for them. */
  @Nullable Namespace ofSurvivors(long digestHi, long digestLo, long slotBytes, int generation) {
    Namespace known = byDigest.get(new Digest(digestHi, digestLo));
    if (known == null) {
      return byHandle.size() == config.maxNamespaces() || slotBytes <= 0
          ? null
          : add(digestHi, digestLo, slotBytes, generation);
    }
    return known.slotBytes() == slotBytes && known.generation() == generation ? known : null;
  }

  private Namespace add(long digestHi, long digestLo, long slotBytes, int generation) {
    if (byHandle.size() == config.maxNamespaces()) {
      throw new IllegalStateException(
          "%d namespaces are open, at most %d".formatted(byHandle.size(), config.maxNamespaces()));
    }
    Namespace opened =
        new Namespace(
            byHandle.size(),
            digestHi,
            digestLo,
            slotBytes,
            generation,
            policy(Tier.HOST, slotBytes),
            policy(Tier.SSD, slotBytes),
            config.maxGroups());
    byHandle.add(opened);
    byDigest.put(new Digest(digestHi, digestLo), opened);
    return opened;
  }

  private Map<Long, EvictionPolicy> policies(Tier tier) {
    return tier == Tier.HOST ? hostPolicies : ssdPolicies;
  }

  private EvictionPolicy policy(Tier tier, long slotBytes) {
    Supplier<EvictionPolicy> made = tier == Tier.HOST ? newHostPolicy : newSsdPolicy;
    return policies(tier).computeIfAbsent(slotBytes, bytes -> made.get());
  }

  /**
   * Gives every slot size a new policy in the host tier and tells it of the blocks, the least
   * recent first.
   */
  void replacePolicies(BlockIndex index, Supplier<EvictionPolicy> changed) {
    newHostPolicy = changed;
    hostPolicies.clear();
    List<Integer> servable = new ArrayList<>();
    for (Namespace namespace : byHandle) {
      namespace.usePolicy(policy(Tier.HOST, namespace.slotBytes()));
      collect(index, namespace.firstRoot, servable);
    }
    servable.sort(Comparator.comparingLong(entry -> index.getLong(entry, RECENCY)));
    for (int entry : servable) {
      index.setInt(entry, OLDER, NONE);
      index.setInt(entry, NEWER, NONE);
      index.setInt(entry, LISTED, 0);
      if (index.getInt(entry, HOST) == HOST_THERE) {
        require(index.getInt(entry, NAMESPACE)).policy().add(entry);
      }
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
  @Nullable EvictionPolicy largestOther(Tier tier, long slotBytes) {
    EvictionPolicy largest = null;
    long most = 0;
    for (Map.Entry<Long, EvictionPolicy> size : policies(tier).entrySet()) {
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
