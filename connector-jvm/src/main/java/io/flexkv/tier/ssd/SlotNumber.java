package io.flexkv.tier.ssd;

/**
 * The number of a slot: {@code generation << 40 | directory << 34 | page}; 23 bits of generation (1
 * and up), 6 of directory, 34 of page (4 KiB each, counted over the files of the directory). Never
 * negative, never 0; means something in one life of the process only.
 */
final class SlotNumber {
  static final int GENERATIONS = 1 << 23;
  static final long MAX_DIRECTORY_BYTES = (1L << 34) * SsdStore.PAGE_BYTES;

  private static final int PAGE_BITS = 34;
  private static final int DIRECTORY_BITS = 6;
  private static final long PAGE_MASK = (1L << PAGE_BITS) - 1;

  private SlotNumber() {}

  static long of(int directory, long offset, int generation) {
    return ((long) generation << DIRECTORY_BITS | directory) << PAGE_BITS
        | offset / SsdStore.PAGE_BYTES;
  }

  static int directory(long slot) {
    return (int) (slot >>> PAGE_BITS) & (1 << DIRECTORY_BITS) - 1;
  }

  /** Bytes from the start of the directory's first file. */
  static long offset(long slot) {
    return (slot & PAGE_MASK) * SsdStore.PAGE_BYTES;
  }

  static int generation(long slot) {
    return (int) (slot >>> (PAGE_BITS + DIRECTORY_BITS));
  }
}
