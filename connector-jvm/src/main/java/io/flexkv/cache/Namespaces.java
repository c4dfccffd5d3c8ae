package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** The namespaces by handle and by digest. */
final class Namespaces {
  private record Digest(long hi, long lo) {}

  private final CacheConfig config;
  private final EvictionPolicies policies;
  private final List<Namespace> byHandle = new ArrayList<>();
  private final Map<Digest, Namespace> byDigest = new LinkedHashMap<>();

  Namespaces(CacheConfig config, EvictionPolicies policies) {
    this.config = config;
    this.policies = policies;
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
            policies,
            config.maxGroups());
    byHandle.add(opened);
    byDigest.put(new Digest(digestHi, digestLo), opened);
    return opened;
  }

  /** Gives every slot size new policies of this kind; what is there is still to be told them. */
  void replacePolicies(EvictionSettings changed) {
    policies.use(changed);
    byHandle.forEach(namespace -> namespace.usePolicies(policies));
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
