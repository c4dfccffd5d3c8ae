package io.flexkv.protocol;

/**
 * The pattern that proves a layout: word i (u64) of a region's share of a block is {@code
 * splitmix64(base + i)}, where {@code base = seed ^ region << 40 ^ block * 0x9E3779B97F4A7C15}, all
 * modulo 2^64. Two places that differ in any of the four hold different words, so a wrong stride,
 * offset or order shows. Defined by {@code proof_bytes} in {@code protocol.py}.
 */
public final class ProofPattern {
  private static final long GOLDEN = 0x9E3779B97F4A7C15L;

  private ProofPattern() {}

  /** The first {@code length} bytes of the pattern of one region of one block. */
  public static byte[] bytes(long seed, int region, int block, int length) {
    long base = seed ^ (long) region << 40 ^ block * GOLDEN;
    byte[] bytes = new byte[length];
    for (int at = 0; at < length; at += 8) {
      long word = splitmix64(base + (at >>> 3));
      for (int i = at; i < Math.min(length, at + 8); i++, word >>>= 8) {
        bytes[i] = (byte) word;
      }
    }
    return bytes;
  }

  private static long splitmix64(long x) {
    long z = x + GOLDEN;
    z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
    return z ^ (z >>> 31);
  }
}
