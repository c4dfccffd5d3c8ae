package io.flexkv.device;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/**
 * Bytes that tell where they belong: unique to (seed, region, block), so that a layout which is
 * shifted, swapped or strided wrongly cannot pass. The engine's side writes the same with 64-bit
 * wrapping integers:
 *
 * <pre>
 * base(seed, region, block) = seed ^ (region &lt;&lt; 40) ^ (block * 0x9E3779B97F4A7C15)   mod 2^64
 * word(i) = splitmix64(base + i)                                                  mod 2^64, i = 0, 1, …
 *
 * splitmix64(x):
 *   z = x + 0x9E3779B97F4A7C15
 *   z = (z ^ (z &gt;&gt;&gt; 30)) * 0xBF58476D1CE4E5B9
 *   z = (z ^ (z &gt;&gt;&gt; 27)) * 0x94D049BB133111EB
 *   return z ^ (z &gt;&gt;&gt; 31)                                    &gt;&gt;&gt; is the logical (unsigned) shift
 * </pre>
 *
 * Word i lies little-endian at bytes 8 i … 8 i + 7 of the region's share of the block; a share that
 * is no multiple of 8 ends with the low bytes of the last word. {@code i} counts anew in every
 * region. For seed 1, region 2, block 3 the first word is {@code 0x6e541afcd12c37dd}.
 */
public final class ProofPattern {
  private static final long GOLDEN = 0x9E3779B97F4A7C15L;
  private static final ValueLayout.OfLong WORD =
      ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  private ProofPattern() {}

  /** The word at index {@code i} of a region's share of a block. */
  public static long word(long seed, int region, int block, long i) {
    return splitmix64(base(seed, region, block) + i);
  }

  private static long base(long seed, int region, int block) {
    return seed ^ ((long) region << 40) ^ (block * GOLDEN);
  }

  private static long splitmix64(long x) {
    long z = x + GOLDEN;
    z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
    return z ^ (z >>> 31);
  }

  /** Fills the image of a block: its regions one after another, from offset 0. */
  public static void fill(MemorySegment image, RankLayout layout, long seed, int block) {
    long offset = 0;
    for (int region = 0; region < layout.regions().size(); region++) {
      long bytes = layout.regions().get(region).bytesPerBlock();
      fillRegion(image.asSlice(offset, bytes), seed, region, block);
      offset += bytes;
    }
  }

  /** Fills one region's share of a block. */
  public static void fillRegion(MemorySegment share, long seed, int region, int block) {
    long base = base(seed, region, block);
    long words = share.byteSize() / 8;
    for (long i = 0; i < words; i++) {
      share.set(WORD, 8 * i, splitmix64(base + i));
    }
    long last = splitmix64(base + words);
    for (long at = 8 * words; at < share.byteSize(); at++) {
      share.set(ValueLayout.JAVA_BYTE, at, (byte) (last >>> (8 * (at - 8 * words))));
    }
  }

  /**
   * Compares the image of a block with what it should be.
   *
   * @return an empty text if it is equal, else what differs first, with both values
   */
  public static String difference(MemorySegment image, RankLayout layout, long seed, int block) {
    long offset = 0;
    for (int region = 0; region < layout.regions().size(); region++) {
      long bytes = layout.regions().get(region).bytesPerBlock();
      MemorySegment share = image.asSlice(offset, bytes);
      long base = base(seed, region, block);
      for (long at = 0; at < bytes; at++) {
        byte wanted = (byte) (splitmix64(base + at / 8) >>> (8 * (at % 8)));
        byte seen = share.get(ValueLayout.JAVA_BYTE, at);
        if (seen != wanted) {
          return "block %d, region %d, byte %d: seen=0x%02x wanted=0x%02x"
              .formatted(block, region, at, seen, wanted);
        }
        // A word at a time while all is well.
        while (at % 8 == 7
            && at + 8 < bytes
            && share.get(WORD, at + 1) == splitmix64(base + (at + 1) / 8)) {
          at += 8;
        }
      }
      offset += bytes;
    }
    return "";
  }
}
