package io.flexkv.transfer;

import io.flexkv.device.RankLayout;
import io.flexkv.protocol.ProofPattern;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** The host image of one block, its regions one after another, filled with the proof pattern. */
final class ProofImage {
  private ProofImage() {}

  /** Fills the image of a block from offset 0. */
  static void fill(MemorySegment image, RankLayout layout, long seed, int block) {
    long offset = 0;
    for (int region = 0; region < layout.regions().size(); region++) {
      byte[] wanted = pattern(layout, seed, region, block);
      MemorySegment.copy(wanted, 0, image, ValueLayout.JAVA_BYTE, offset, wanted.length);
      offset += wanted.length;
    }
  }

  /**
   * Compares the image of a block with what it should be.
   *
   * @return an empty text if it is equal, else what differs first, with both values
   */
  static String difference(MemorySegment image, RankLayout layout, long seed, int block) {
    long offset = 0;
    for (int region = 0; region < layout.regions().size(); region++) {
      MemorySegment wanted = MemorySegment.ofArray(pattern(layout, seed, region, block));
      MemorySegment seen = image.asSlice(offset, wanted.byteSize());
      long at = seen.mismatch(wanted);
      if (at >= 0) {
        return "block %d, region %d, byte %d: seen=0x%02x wanted=0x%02x"
            .formatted(
                block,
                region,
                at,
                seen.get(ValueLayout.JAVA_BYTE, at),
                wanted.get(ValueLayout.JAVA_BYTE, at));
      }
      offset += wanted.byteSize();
    }
    return "";
  }

  private static byte[] pattern(RankLayout layout, long seed, int region, int block) {
    int length = Math.toIntExact(layout.regions().get(region).bytesPerBlock());
    return ProofPattern.bytes(seed, region, block, length);
  }
}
