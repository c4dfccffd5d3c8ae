package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.device.AllocationHandle.CudaIpc;
import io.flexkv.device.AllocationHandle.ProcessMemory;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

final class RankLayoutTest {
  private static final ProcessMemory MIB = new ProcessMemory(1, 1, 1 << 30, 1 << 20);

  private static RankLayout of(Region... regions) throws DeviceException {
    return RankLayout.of(List.of(MIB), List.of(regions), "test");
  }

  private static void refused(String text, Region... regions) {
    assertThatThrownBy(() -> of(regions))
        .isInstanceOfSatisfying(
            DeviceException.class, e -> assertThat(e.kind()).isEqualTo(DeviceException.Kind.LAYOUT))
        .hasMessageContaining(text);
  }

  @Test
  void of_layersOneAfterAnother_addsUpTheBytesOfABlock() throws DeviceException {
    RankLayout layout = of(new Region(0, 0, 100, 100, 10), new Region(0, 1000, 100, 100, 10));
    assertThat(layout.partBytes()).isEqualTo(200);
    assertThat(layout.blocks()).isEqualTo(10);
  }

  @Test
  void of_layersOfABlockTogether_areNotAnOverlap() throws DeviceException {
    List<Region> regions = new ArrayList<>();
    for (int layer = 0; layer < 8; layer++) {
      regions.add(new Region(0, layer * 100L, 800, 100, 10));
    }
    Collections.shuffle(regions, new Random(1));
    assertThat(RankLayout.of(List.of(MIB), regions, "test").partBytes()).isEqualTo(800);
  }

  @Test
  void of_regionsThatShareBytes_refusedWithBoth() {
    refused(
        "regions 0 and 1 share bytes",
        new Region(0, 0, 100, 100, 10),
        new Region(0, 900, 100, 100, 10));
    refused("share bytes", new Region(0, 0, 800, 101, 10), new Region(0, 100, 800, 100, 10));
    refused("share bytes", new Region(0, 750, 800, 100, 10), new Region(0, 800, 800, 100, 10));
    refused("share bytes", new Region(0, 0, 100, 100, 10), new Region(0, 0, 100, 100, 10));
  }

  @Test
  void of_interleavedWithDifferentStrides_refusedBecauseItCannotBeProved() {
    refused("interleave", new Region(0, 0, 400, 100, 10), new Region(0, 100, 300, 100, 10));
  }

  @Test
  void of_boundsAndOverflow_refusedWithTheNumbers() {
    refused("end beyond allocation 0", new Region(0, 0, 1024, 1025 - 1, 1025));
    refused("end beyond", new Region(0, Long.MAX_VALUE, 1, 1, 1));
    refused("end beyond", new Region(0, -1, 1024, 1024, 1));
    refused("end beyond", new Region(0, 0, 1L << 57, 1, 1 << 24));
    refused("end beyond", new Region(0, 0, 1L << 40, 1, 1 << 24));
    refused("end beyond", new Region(0, 0, 1L << 41, 1, (1 << 23) + 1)); // 2^64 in all
    refused("block stride", new Region(0, 0, 1023, 1024, 2));
    refused("block stride", new Region(0, 0, Long.MAX_VALUE, 1, 2));
    refused("bytes a block", new Region(0, 0, 0, 0, 1));
    refused("allocation 1 of 1", new Region(1, 0, 1, 1, 1));
    refused("allocation -1 of 1", new Region(-1, 0, 1, 1, 1));
    refused("has 0 blocks", new Region(0, 0, 1, 1, 0));
    refused("has 2 blocks, wanted 3", new Region(0, 0, 1, 1, 3), new Region(0, 3, 1, 1, 2));
    refused("16777217 blocks", new Region(0, 0, 1, 1, (1 << 24) + 1));
  }

  @Test
  void of_countsBeyondTheLimits_refused() {
    assertThatThrownBy(() -> RankLayout.of(List.of(), List.of(new Region(0, 0, 1, 1, 1)), ""))
        .hasMessageContaining("0 allocations");
    assertThatThrownBy(() -> RankLayout.of(List.of(MIB), List.of(), ""))
        .hasMessageContaining("0 regions");
    assertThatThrownBy(() ->
            RankLayout.of(Collections.nCopies(4097, MIB), List.of(new Region(0, 0, 1, 1, 1)), ""))
        .hasMessageContaining("4097 allocations");
    assertThatThrownBy(() ->
            RankLayout.of(List.of(MIB), Collections.nCopies(65_537, new Region(0, 0, 1, 1, 1)), ""))
        .hasMessageContaining("65537 regions");
  }

  @Test
  void of_oneMemoryUnderTwoNames_refused() {
    Region region = new Region(0, 0, 1, 1, 1);
    assertThatThrownBy(() ->
            RankLayout.of(
                List.of(MIB, new ProcessMemory(1, 1, (1 << 30) + 5, 10)), List.of(region), ""))
        .isInstanceOf(DeviceException.class)
        .hasMessageContaining("allocations 0 and 1 share bytes");
    String handle = "ab".repeat(64);
    assertThatThrownBy(() ->
            RankLayout.of(
                List.of(
                    new CudaIpc(handle, 0, 100, "GPU-1"),
                    new CudaIpc(handle.toUpperCase(java.util.Locale.ROOT), 99, 100, "GPU-1")),
                List.of(region),
                ""))
        .hasMessageContaining("share bytes");
  }

  @Test
  void of_badHandles_refused() {
    Region region = new Region(0, 0, 1, 1, 1);
    assertThatThrownBy(
            () -> RankLayout.of(List.of(new CudaIpc("ab", 0, 1, "GPU-1")), List.of(region), ""))
        .hasMessageContaining("128 hex digits");
    assertThatThrownBy(
            () -> RankLayout.of(List.of(new ProcessMemory(0, 1, 1, 1)), List.of(region), ""))
        .hasMessageContaining("pid 0");
  }

  @Test
  void of_sixtyThousandRegions_isQuick() throws DeviceException {
    List<Region> regions = new ArrayList<>();
    for (int i = 0; i < 60_000; i++) {
      regions.add(new Region(0, i * 16L, 960_000, 16, 16));
    }
    long begin = System.nanoTime();
    ProcessMemory big = new ProcessMemory(1, 1, 1 << 30, 1 << 30);
    assertThat(RankLayout.of(List.of(big), regions, "").partBytes()).isEqualTo(960_000);
    assertThat(System.nanoTime() - begin).isLessThan(5_000_000_000L);
  }
}
