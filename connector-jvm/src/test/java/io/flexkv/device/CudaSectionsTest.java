package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

final class CudaSectionsTest {
  private static final long SECTION = 16L << 20;

  private final CudaSections sections = new CudaSections();

  private void beWorthIt(long mappings) {
    for (int i = 0; i < CudaSections.WORTH_IT; i++) {
      assertThat(sections.rowByRow(mappings, SECTION)).isFalse();
    }
  }

  @Test
  void rowByRow_mappingsUnchanged_theFirstOfEachSection() {
    beWorthIt(7);
    assertThat(sections.rowByRow(7, 3 * SECTION)).isTrue();
    assertThat(sections.rowByRow(7, 3 * SECTION + 4096)).isFalse();
    assertThat(sections.rowByRow(7, 4 * SECTION)).isTrue();
    assertThat(sections.rowByRow(7, 4 * SECTION - 1)).isFalse();
    assertThat(sections.rowByRow(7, 0xffff_ffff_ff00_0000L)).isTrue();
  }

  @Test
  void rowByRow_mappingsChange_stridedUntilItIsWorthIt() {
    beWorthIt(0);
    assertThat(sections.rowByRow(0, 3 * SECTION)).isTrue();
    beWorthIt(1);
    assertThat(sections.rowByRow(1, 3 * SECTION)).isTrue();
    for (int mappings = 2; mappings < 1000; mappings++) {
      assertThat(sections.rowByRow(mappings, 3 * SECTION)).isFalse();
    }
  }
}
