package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.DeviceException;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.junit.jupiter.api.Test;

final class ProofImageTest {
  private static final RankLayout LAYOUT =
      layout(new Region(0, 0, 100, 100, 10), new Region(0, 1000, 37, 37, 10));

  private static RankLayout layout(Region... regions) {
    try {
      return RankLayout.of(
          List.of(new AllocationHandle.ProcessMemory(1, 1, 4096, 4096)), List.of(regions), "");
    } catch (DeviceException e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void difference_everySingleByte_isNoticed() {
    byte[] image = new byte[137];
    MemorySegment memory = MemorySegment.ofArray(image);
    ProofImage.fill(memory, LAYOUT, 42, 5);
    assertThat(ProofImage.difference(memory, LAYOUT, 42, 5)).isEmpty();
    for (int at = 0; at < image.length; at++) {
      image[at] ^= 1;
      String where = at < 100 ? "region 0, byte " + at : "region 1, byte " + (at - 100);
      assertThat(ProofImage.difference(memory, LAYOUT, 42, 5)).contains("block 5, " + where + ":");
      image[at] ^= 1;
    }
  }

  @Test
  void difference_otherSeedBlockOrShiftedRegion_isNoticed() {
    byte[] image = new byte[138];
    MemorySegment memory = MemorySegment.ofArray(image);
    ProofImage.fill(memory, LAYOUT, 42, 5);
    assertThat(ProofImage.difference(memory, LAYOUT, 43, 5)).isNotEmpty();
    assertThat(ProofImage.difference(memory, LAYOUT, 42, 6)).isNotEmpty();
    assertThat(ProofImage.difference(memory.asSlice(1), LAYOUT, 42, 5)).isNotEmpty();
  }
}
