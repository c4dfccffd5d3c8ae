package io.flexkv.sidecar;

import io.flexkv.tier.NumaPlacement;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.stream.Stream;

/**
 * The NUMA nodes that this machine's GPUs hang on, as the NVIDIA driver and the PCI bus tell them,
 * without a CUDA call: the host pool is mapped before anybody has said which GPU it is for. In a
 * container the driver names the GPUs that are the container's.
 *
 * <p>With several GPUs on several nodes the pool is for all of them, and its pages come from each
 * node in turn: every GPU then has the same way to it.
 */
final class NumaNodes {
  private NumaNodes() {}

  /**
   * Where the pool's pages should come from.
   *
   * @param root of the file system; another one in tests
   */
  static NumaPlacement ofGpus(Path root) {
    if (count(root.resolve("sys/devices/system/node")) < 2) {
      return NumaPlacement.anywhere("this machine has one NUMA node");
    }
    SortedSet<Integer> nodes = new TreeSet<>();
    for (Path gpu : entries(root.resolve("proc/driver/nvidia/gpus"))) {
      // Named by its place on the bus, as the bus itself names it.
      Path device = root.resolve("sys/bus/pci/devices").resolve(gpu.getFileName().toString());
      int node = number(device.resolve("numa_node"));
      if (node >= 0) {
        nodes.add(node);
      }
    }
    return nodes.isEmpty()
        ? NumaPlacement.anywhere("no GPU here says on which NUMA node it is")
        : NumaPlacement.on(List.copyOf(nodes));
  }

  private static long count(Path nodes) {
    return entries(nodes).stream()
        .filter(path -> path.getFileName().toString().matches("node[0-9]{1,4}"))
        .count();
  }

  private static List<Path> entries(Path folder) {
    try (Stream<Path> found = Files.list(folder)) {
      return found.sorted().toList();
    } catch (IOException e) {
      return List.of(); // no such thing on this machine
    }
  }

  /** -1 where the system does not know, or does not tell. */
  private static int number(Path file) {
    try {
      String text = Files.readString(file).strip();
      return text.matches("[0-9]{1,3}") ? Integer.parseInt(text) : -1;
    } catch (IOException e) {
      return -1;
    }
  }
}
