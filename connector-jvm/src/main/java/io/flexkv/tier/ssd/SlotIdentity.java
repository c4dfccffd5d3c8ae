package io.flexkv.tier.ssd;

/**
 * Whose bytes a slot holds. A write binds it to the bytes (it goes into their checksum), and a read
 * that expects another one fails, whatever the disk answers.
 *
 * @param digestHi upper half of the namespace's digest
 * @param digestLo lower half of the namespace's digest
 * @param generation the namespace's generation
 * @param group KV group id
 * @param keyHi upper half of the block hash's last 16 bytes, as they came (not mixed)
 * @param keyLo lower half of them
 * @param layoutDigest digest of the layout fingerprint and the sizes of the parts
 * @param payloadBytes bytes of the block, all parts; positive
 */
public record SlotIdentity(
    long digestHi,
    long digestLo,
    int generation,
    int group,
    long keyHi,
    long keyLo,
    long layoutDigest,
    long payloadBytes) {

  public SlotIdentity {
    if (payloadBytes <= 0 || payloadBytes > SsdStore.MAX_SLOT_BYTES) {
      throw new IllegalArgumentException(
          "payload of %d bytes, wanted 1 to %d".formatted(payloadBytes, SsdStore.MAX_SLOT_BYTES));
    }
    if (generation < 0 || group < 0) {
      throw new IllegalArgumentException(
          "generation=%d group=%d, wanted 0 or more".formatted(generation, group));
    }
  }

  /** 64 bits of all fields, never 0. Part of every checksum on disk: changing it loses caches. */
  long digest() {
    return digest(digestHi, digestLo, generation, group, keyHi, keyLo, layoutDigest, payloadBytes);
  }

  /** As {@link #digest()}, of an identity that is not made. */
  static long digest(
      long digestHi,
      long digestLo,
      int generation,
      int group,
      long keyHi,
      long keyLo,
      long layoutDigest,
      long payloadBytes) {
    long h = mix(digestHi + 0x9E3779B97F4A7C15L);
    h = mix(h ^ digestLo);
    h = mix(h ^ ((long) generation << 32 | group));
    h = mix(h + keyHi);
    h = mix(h ^ keyLo);
    h = mix(h + layoutDigest);
    h = mix(h ^ payloadBytes);
    return h == 0 ? 1 : h;
  }

  /** The finaliser of SplitMix64. */
  private static long mix(long z) {
    long a = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    long b = (a ^ (a >>> 27)) * 0x94D049BB133111EBL;
    return b ^ (b >>> 31);
  }
}
