package io.flexkv.tier;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assumptions.assumeThat;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

/** On a machine of one node: that its only one is asked for can be seen all the same. */
class NumaPlacementTest {
  private static final Path MAPS = Path.of("/proc/self/numa_maps");
  private static final int ABSENT_NODE = 1000;

  /** The policy of the mapping that begins at the address, as the kernel tells it. */
  private static String policy(MemorySegment segment) throws IOException {
    String start = Long.toHexString(segment.address()) + " ";
    return Files.readAllLines(MAPS).stream()
        .filter(line -> line.startsWith(start))
        .map(line -> line.split(" ", 3)[1])
        .findFirst()
        .orElse("no mapping begins there");
  }

  private static void assumeKernelTells(NumaPlacement placement) {
    assumeThat(MAPS).as("a kernel with NUMA").exists();
    assumeThat(placement.outcome()).as("a process that may call mbind").doesNotContain("refused");
  }

  @Test
  void on_nodeThatIsThere_segmentsPreferItAlsoWhereTheyGrow() throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      NumaPlacement placement = NumaPlacement.on(List.of(0));
      PoolPages pages = PoolPages.OF_THE_SYSTEM.placed(placement);
      HostPool pool = HostPool.create("t", 3 << 20, 1 << 20, 8 << 20, pages, arena);
      assumeKernelTells(placement);
      assertThat(policy(pool.segments().getFirst())).isEqualTo("prefer:0");
      pool.openMemory(12 << 20);
      pool.resize(12 << 20);
      assertThat(pool.segments())
          .hasSize(2)
          .allSatisfy(segment -> assertThat(policy(segment)).isEqualTo("prefer:0"));
      assertThat(placement.outcome()).isEqualTo("nodes [0]");
    }
  }

  @Test
  void on_nodeThatIsNotThere_poolIsThereAndSaysSo() throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      NumaPlacement placement = NumaPlacement.on(List.of(ABSENT_NODE));
      PoolPages pages = PoolPages.OF_THE_SYSTEM.placed(placement);
      HostPool pool = HostPool.create("t", 3 << 20, 1 << 20, 8 << 20, pages, arena);
      assertThat(pool.allocate(1 << 20)).isNotEqualTo(HostPool.FULL);
      assertThat(placement.outcome()).isEqualTo("anywhere: refused for nodes [1000]");
    }
  }

  @Test
  void anywhere_isTheKernelsChoice() throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      HostPool pool = HostPool.create("t", 1 << 20, 1 << 20, arena);
      assumeThat(MAPS).exists();
      assertThat(policy(pool.segments().getFirst())).isEqualTo("default");
    }
  }
}
