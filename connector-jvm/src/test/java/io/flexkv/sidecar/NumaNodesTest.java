package io.flexkv.sidecar;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class NumaNodesTest {
  @TempDir Path root;

  private void nodes(int count) throws IOException {
    Files.createDirectories(root.resolve("sys/devices/system/node/power"));
    for (int node = 0; node < count; node++) {
      Files.createDirectories(root.resolve("sys/devices/system/node/node" + node));
    }
  }

  private void gpu(String place, String node) throws IOException {
    Files.createDirectories(root.resolve("proc/driver/nvidia/gpus").resolve(place));
    Path device = Files.createDirectories(root.resolve("sys/bus/pci/devices").resolve(place));
    Files.writeString(device.resolve("numa_node"), node + "\n");
  }

  @Test
  void ofGpus_oneNode_anywhere() throws IOException {
    nodes(1);
    gpu("0000:3b:00.0", "0");
    assertThat(NumaNodes.ofGpus(root).outcome())
        .isEqualTo("anywhere: this machine has one NUMA node");
  }

  @Test
  void ofGpus_allOnOneOfTwo_thatOne() throws IOException {
    nodes(2);
    gpu("0000:3b:00.0", "1");
    gpu("0000:5e:00.0", "1");
    assertThat(NumaNodes.ofGpus(root).outcome()).isEqualTo("nodes [1]");
  }

  @Test
  void ofGpus_onSeveral_each() throws IOException {
    nodes(4);
    gpu("0000:e1:00.0", "2");
    gpu("0000:3b:00.0", "0");
    assertThat(NumaNodes.ofGpus(root).outcome()).isEqualTo("nodes [0, 2]");
  }

  @Test
  void ofGpus_placeUnknownOrNoGpu_anywhere() throws IOException {
    nodes(2);
    assertThat(NumaNodes.ofGpus(root).outcome()).contains("no GPU here says");
    gpu("0000:3b:00.0", "-1");
    Files.createDirectories(root.resolve("proc/driver/nvidia/gpus/0000:99:00.0"));
    assertThat(NumaNodes.ofGpus(root).outcome()).contains("no GPU here says");
  }
}
