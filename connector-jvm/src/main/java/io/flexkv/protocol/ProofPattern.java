package io.flexkv.protocol;

/**
 * The pattern that proves a layout: word i (u64) of a region's share of a block is {@code mix(key +
 * i * STEP)}, where the key follows from seed, region and block. Two places that differ in any of
 * the four hold different words, so a wrong stride, offset or order shows. Defined by {@code
 * proof_bytes} in {@code protocol.py}.
 */
public final class ProofPattern {
  private static final long STEP = 0x9E3779B97F4A7C15L;
  private static final long MULTIPLIER = 0xD6E8FEB86659FD93L;

  private ProofPattern() {}

  /** The first {@code length} bytes of the pattern of one region of one block. */
  public static byte[] bytes(long seed, int region, int block, int length) {
    long key = mix(mix(seed + region * STEP) + block * STEP);
    byte[] bytes = new byte[length];
    for (int at = 0; at < length; at += 8) {
      long word = mix(key + (at >>> 3) * STEP);
      for (int i = at; i < Math.min(length, at + 8); i++, word >>>= 8) {
        bytes[i] = (byte) word;
      }
    }
    return bytes;
  }

  private static long mix(long value) {
    long x = (value ^ (value >>> 32)) * MULTIPLIER;
    x = (x ^ (x >>> 32)) * MULTIPLIER;
    return x ^ (x >>> 32);
  }
}
