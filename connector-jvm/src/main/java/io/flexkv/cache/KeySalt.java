package io.flexkv.cache;

/**
 * What tells the keys of one (namespace, generation, KV group) from those of every other: four
 * round keys, made from the namespace's 128-bit digest, its generation and the group id.
 *
 * <p>A key is the block hash's last 16 bytes after a four-round Feistel permutation under these
 * round keys. Within one salt the map is a bijection, so two blocks share a key only if their
 * hashes share their last 16 bytes; between salts it behaves like an independent random map, so a
 * block of an older generation, another group or another model is found by chance only
 * (2<sup>-128</sup>). Nothing here depends on the process: a key found on an SSD after a restart is
 * still right.
 */
record KeySalt(long k0, long k1, long k2, long k3) {
  private static final long GOLDEN = 0x9E3779B97F4A7C15L;

  static KeySalt of(long digestHi, long digestLo, int generation, int group) {
    long tag = mix(((long) generation << 32) + Integer.toUnsignedLong(group) + GOLDEN);
    long k0 = mix(digestHi + tag);
    long k1 = mix(digestLo + Long.rotateLeft(tag, 29));
    long k2 = mix(k0 ^ Long.rotateLeft(k1, 32) ^ GOLDEN);
    long k3 = mix(k1 + k2);
    return new KeySalt(k0, k1, k2, k3);
  }

  /** Stafford's 13th variant of the 64-bit finaliser of MurmurHash3. */
  static long mix(long z) {
    long a = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    long b = (a ^ (a >>> 27)) * 0x94D049BB133111EBL;
    return b ^ (b >>> 31);
  }
}
