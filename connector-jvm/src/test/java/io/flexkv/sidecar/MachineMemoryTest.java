package io.flexkv.sidecar;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.config.Option;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class MachineMemoryTest {
  private static final long GB = 1_000_000_000;

  @TempDir Path root;

  @BeforeEach
  void machineOf32Gb() throws IOException {
    write("proc/meminfo", "MemTotal:       31250000 kB\nMemFree:         1000 kB\n");
  }

  private void write(String path, String text) throws IOException {
    Path file = root.resolve(path);
    Files.createDirectories(file.getParent());
    Files.writeString(file, text);
  }

  private MachineMemory memory() throws IOException {
    return MachineMemory.read(root);
  }

  @Test
  void read_noGroups_isTheMachines() throws IOException {
    assertThat(memory().bytes()).isEqualTo(32 * GB);
    write("proc/self/cgroup", "0::/\n");
    assertThat(memory().bytes()).isEqualTo(32 * GB);
  }

  @Test
  void read_groupWithoutALimit_isTheMachines() throws IOException {
    write("proc/self/cgroup", "0::/a/b\n");
    write("sys/fs/cgroup/a/b/memory.max", "max\n");
    assertThat(memory().bytes()).isEqualTo(32 * GB);
  }

  @Test
  void read_limitOfAGroupAbove_counts() throws IOException {
    write("proc/self/cgroup", "0::/a/b\n");
    write("sys/fs/cgroup/a/memory.max", Long.toString(8 * GB));
    write("sys/fs/cgroup/a/b/memory.max", Long.toString(20 * GB));
    assertThat(memory().bytes()).isEqualTo(8 * GB);
    assertThat(memory().source()).endsWith("/sys/fs/cgroup/a/memory.max allows");
  }

  @Test
  void read_pathOfTheHostInAContainer_findsTheRootsLimit() throws IOException {
    write("proc/self/cgroup", "0::/../../kubepods/pod1\n");
    write("sys/fs/cgroup/memory.max", Long.toString(6 * GB));
    assertThat(memory().bytes()).isEqualTo(6 * GB);
  }

  @Test
  void read_versionOne_isUnderstood() throws IOException {
    write("proc/self/cgroup", "7:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/c\n");
    write("sys/fs/cgroup/memory/docker/c/memory.limit_in_bytes", Long.toString(5 * GB));
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
    assertThat(memory().bytes()).isEqualTo(5 * GB);
  }

  @Test
  void require_moreThanThereIs_namesBothAndTheRemedy() throws IOException {
    write("proc/self/cgroup", "0::/\n");
    write("sys/fs/cgroup/memory.max", Long.toString(6 * GB));
    assertThatThrownBy(() -> memory().require(16 * GB, Options.CPU_CACHE_GB))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("16.0 GB (cpu_cache_gb)")
        .hasMessageContaining("/sys/fs/cgroup/memory.max allows 6.0 GB")
        .hasMessageContaining("set cpu_cache_gb (FLEXKV_CPU_CACHE_GB) to 4.5 or less");
    assertThatCode(() -> memory().require(6 * GB, Options.CPU_CACHE_GB)).doesNotThrowAnyException();
  }

  @Test
  void require_sizeGivenInBlocks_namesTheOptionThatWasGiven() throws Exception {
    Settings told =
        Settings.load(
            Map.of(
                Options.OVERRIDES_ENV,
                """
                {"cpu_cache_gb": 900, "num_cpu_blocks": 0,
                 "sources": {"cpu_cache_gb": "what was given", "num_cpu_blocks": "what was given"}}
                """),
            Map.of());
    Option option = MachineMemory.sizedBy(told);
    assertThatThrownBy(() -> new MachineMemory(8 * GB, "x has").require(900 * GB, option))
        .hasMessageContaining("900.0 GB (num_cpu_blocks), x has 8.0 GB")
        .hasMessageContaining("make num_cpu_blocks (FLEXKV_NUM_CPU_BLOCKS) smaller: 6.0 GB at");
  }

  @Test
  void sizedBy_sizeGivenInGigabytesOrByNobody_isThatOption() throws Exception {
    for (Map<String, String> env :
        List.of(
            Map.<String, String>of(),
            Map.of("FLEXKV_CPU_CACHE_GB", "16"),
            Map.of("FLEXKV_CPU_CACHE_GB", "16", "FLEXKV_NUM_CPU_BLOCKS", "9"),
            Map.of("FLEXKV_NUM_CPU_BLOCKS", "9"))) {
      assertThat(MachineMemory.sizedBy(Settings.load(env, Map.of())))
          .as("%s", env)
          .isEqualTo(Options.CPU_CACHE_GB);
    }
  }

  @Test
  void bounded_sizeThatNobodyNamed_isAnEighthAtMost() throws Exception {
    Settings none = Settings.load(Map.of(), Map.of());
    assertThat(memory().bounded(none).hostBytes()).isEqualTo(4 * GB);
    assertThat(new MachineMemory(512 * GB, "").bounded(none).hostBytes()).isEqualTo(16 * GB);
    Settings named = Settings.load(Map.of("FLEXKV_CPU_CACHE_GB", "16"), Map.of());
    assertThat(memory().bounded(named).hostBytes()).isEqualTo(16 * GB);
  }

  @Test
  void read_thisMachine_hasSome() throws IOException {
    assertThat(MachineMemory.read(Path.of("/")).bytes()).isBetween(1L << 26, 1L << 50);
  }
}
