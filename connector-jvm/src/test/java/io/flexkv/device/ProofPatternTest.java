package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.util.List;
import org.junit.jupiter.api.Test;

final class ProofPatternTest {
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
  void word_agreesWithTheFormulaInPython() throws Exception {
    String script =
        """
        M = (1 << 64) - 1
        def word(seed, region, block, i):
            x = ((seed ^ (region << 40) ^ (block * 0x9E3779B97F4A7C15 & M)) + i) & M
            z = (x + 0x9E3779B97F4A7C15) & M
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
            return z ^ (z >> 31)
        for a in [(1, 2, 3, 0), (0, 0, 0, 0), (M, 65535, 16777215, 9), (1 << 63, 7, 1, 1 << 20)]:
            print('%016x' % word(*a))
        """;
    Process python = new ProcessBuilder("python3", "-c", script).start();
    List<String> lines;
    try (var reader = python.inputReader()) {
      lines = reader.readAllLines();
    }
    assertThat(python.waitFor()).isZero();
    assertThat(
            List.of(
                ProofPattern.word(1, 2, 3, 0),
                ProofPattern.word(0, 0, 0, 0),
                ProofPattern.word(-1, 65_535, 16_777_215, 9),
                ProofPattern.word(Long.MIN_VALUE, 7, 1, 1 << 20)))
        .extracting("%016x"::formatted)
        .isEqualTo(lines);
    assertThat(lines.getFirst()).as("the example in the Javadoc").isEqualTo("6e541afcd12c37dd");
  }

  @Test
  void difference_everySingleByte_isNoticed() {
    byte[] image = new byte[137];
    MemorySegment memory = MemorySegment.ofArray(image);
    ProofPattern.fill(memory, LAYOUT, 42, 5);
    assertThat(ProofPattern.difference(memory, LAYOUT, 42, 5)).isEmpty();
    for (int at = 0; at < image.length; at++) {
      image[at] ^= 1;
      String where = at < 100 ? "region 0, byte " + at : "region 1, byte " + (at - 100);
      assertThat(ProofPattern.difference(memory, LAYOUT, 42, 5))
          .contains("block 5, " + where + ":");
      image[at] ^= 1;
    }
  }

  @Test
  void difference_otherSeedBlockOrShiftedRegion_isNoticed() {
    byte[] image = new byte[138];
    MemorySegment memory = MemorySegment.ofArray(image);
    ProofPattern.fill(memory, LAYOUT, 42, 5);
    assertThat(ProofPattern.difference(memory, LAYOUT, 43, 5)).isNotEmpty();
    assertThat(ProofPattern.difference(memory, LAYOUT, 42, 6)).isNotEmpty();
    assertThat(ProofPattern.difference(memory.asSlice(1), LAYOUT, 42, 5)).isNotEmpty();
  }
}
