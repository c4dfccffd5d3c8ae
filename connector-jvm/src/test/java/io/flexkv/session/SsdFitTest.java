package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.tier.ssd.SsdStore;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

class SsdFitTest {
  private static SsdStore.DirectoryStatus directory(long capacityBytes) {
    return new SsdStore.DirectoryStatus(
        Path.of("/a"), SsdStore.State.SERVING, capacityBytes, 0, null, false);
  }

  @Test
  void objection_hardlyOneBlockFits_namesBothSizesAndTheRemedy() {
    assertThat(SsdFit.objection(2 << 20, List.of(directory(851_968), directory(851_968))))
        .isEqualTo(
            "a block has 2097152 bytes, a folder of the SSD tier 851968 and its headers: hardly one"
                + " fits, and the tier is of no use. Remedy: set ssd_cache_gb"
                + " (FLEXKV_SSD_CACHE_GB) to 0.54 or more");
  }

  @Test
  void objection_severalFit_isNone() {
    assertThat(SsdFit.objection(2 << 20, List.of(directory(1 << 20), directory(8 << 20))))
        .isEmpty();
  }
}
