package io.flexkv.tier;

/**
 * The number of a slot: {@code generation << 40 | page}; 15 bits of generation (1 to 32 767), 40 of
 * page (4 KiB each), so it is never negative and never 0.
 */
final class Slots {
  static final int GENERATIONS = 1 << 15;

  private static final int PAGE_BITS = 40;
  private static final long PAGE_MASK = (1L << PAGE_BITS) - 1;

  private Slots() {}

  static long slot(long offset, int generation) {
    return (long) generation << PAGE_BITS | offset / HostPool.PAGE_BYTES;
  }

  static long offset(long slot) {
    return (slot & PAGE_MASK) * HostPool.PAGE_BYTES;
  }

  static int generation(long slot) {
    return (int) (slot >>> PAGE_BITS);
  }
}
