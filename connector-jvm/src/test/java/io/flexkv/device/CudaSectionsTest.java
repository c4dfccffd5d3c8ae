package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

final class CudaSectionsTest {
  private static final long SECTION = 16L << 20;
  private static final int LAYERS = 32;

  private final CudaSections sections = new CudaSections();

  private boolean rowByRow(long mappings, long device, boolean alone) {
    return sections.rowByRow(mappings, device, LAYERS, alone);
  }

  private void beWorthIt(long mappings) {
    for (int i = 0; i < CudaSections.WORTH_IT; i++) {
      assertThat(rowByRow(mappings, SECTION, true)).isFalse();
    }
  }

  private void goRowByRow(long mappings) {
    for (int rows = 0; rows < CudaSections.ROWS; rows += LAYERS) {
      assertThat(rowByRow(mappings, SECTION, rows == 0)).isTrue();
    }
  }

  @Test
  void rowByRow_worthIt_aThousandRowsAndThenTheFirstOfEachSection() {
    beWorthIt(7);
    goRowByRow(7);
    assertThat(rowByRow(7, SECTION, true)).isFalse();
    assertThat(rowByRow(7, 3 * SECTION, false)).isTrue();
    assertThat(rowByRow(7, 3 * SECTION + 4096, false)).isFalse();
    assertThat(rowByRow(7, 4 * SECTION, false)).isTrue();
    assertThat(rowByRow(7, 4 * SECTION - 1, false)).isFalse();
    assertThat(rowByRow(7, 0xffff_ffff_ff00_0000L, false)).isTrue();
  }

  @Test
  void rowByRow_otherCopiesOnTheirWay_waitsButNotForEver() {
    for (int i = 0; i < CudaSections.PATIENCE; i++) {
      assertThat(rowByRow(7, SECTION, false)).isFalse();
    }
    assertThat(rowByRow(7, SECTION, false)).isTrue();
  }

  @Test
  void rowByRow_mappingsChange_stridedUntilItIsWorthItAgain() {
    beWorthIt(0);
    goRowByRow(0);
    assertThat(rowByRow(1, 3 * SECTION, true)).isFalse();
    for (int i = 1; i < CudaSections.WORTH_IT; i++) {
      assertThat(rowByRow(1, SECTION, true)).isFalse();
    }
    goRowByRow(1);
    for (int mappings = 2; mappings < 1000; mappings++) {
      assertThat(rowByRow(mappings, 3 * SECTION, true)).isFalse();
    }
  }
}
