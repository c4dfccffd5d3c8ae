package io.flexkv.sidecar;

import io.flexkv.config.ConfigException;
import io.flexkv.config.Option;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * How much memory this process can ever have: the machine's, or what its control group (a
 * container, a service unit, a batch job) leaves it. Read once, at start.
 *
 * @param bytes the limit
 * @param source whose limit it is, for a message
 */
record MachineMemory(long bytes, String source) {
  private static final String V2 = "memory.max";
  private static final String V1 = "memory.limit_in_bytes";
  private static final double GB = 1e9;

  /** What a pool whose size nobody named takes of the limit at most. */
  private static final int DEFAULT_DIVISOR = 8;

  /** What a pool may take at most of the limit, for the remedy: the engine lives here, too. */
  private static final double SENSIBLE_SHARE = 0.75;

  /**
   * Reads the limit.
   *
   * @param root of the file system; another one in tests
   */
  static MachineMemory read(Path root) throws IOException {
    long total = Long.MAX_VALUE;
    for (String line : Files.readAllLines(root.resolve("proc/meminfo"))) {
      if (line.startsWith("MemTotal:")) {
        total = Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
      }
    }
    MachineMemory least = new MachineMemory(total, "this machine has");
    for (String line : lines(root.resolve("proc/self/cgroup"))) {
      // "0::/path" in version 2, "4:memory:/path" in version 1.
      String[] parts = line.split(":", 3);
      if (parts.length == 3 && parts[1].isEmpty()) {
        least = least.within(root.resolve("sys/fs/cgroup"), parts[2], V2);
      } else if (parts.length == 3 && List.of(parts[1].split(",")).contains("memory")) {
        least = least.within(root.resolve("sys/fs/cgroup/memory"), parts[2], V1);
      }
    }
    return least;
  }

  /** The least of this and the limits of a group and all groups above it that can be seen. */
  private MachineMemory within(Path hierarchy, String group, String file) {
    MachineMemory least = this;
    // In a container the path is often that of the host, while only the root of it is mounted.
    Path below = hierarchy.resolve(group.replaceFirst("^/+", "")).normalize();
    Path place = below.startsWith(hierarchy) ? below : hierarchy;
    for (; place != null && place.startsWith(hierarchy); place = place.getParent()) {
      for (String line : lines(place.resolve(file))) {
        if (line.matches("[0-9]{1,18}") && Long.parseLong(line) < least.bytes) {
          least = new MachineMemory(Long.parseLong(line), place.resolve(file) + " allows");
        }
      }
    }
    return least;
  }

  private static List<String> lines(Path file) {
    try {
      return Files.readAllLines(file);
    } catch (IOException e) {
      return List.of(); // no such hierarchy here, or not ours to read
    }
  }

  /**
   * These settings with a host tier that suits this machine, if nobody has said how large it is to
   * be.
   */
  Settings bounded(Settings settings) throws ConfigException {
    long most = bytes / DEFAULT_DIVISOR;
    if (!settings.source(Options.CPU_CACHE_GB).equals("default") || settings.hostBytes() <= most) {
      return settings;
    }
    String gigabytes = String.format(Locale.ROOT, "%.2f", Math.max(0.01, most / GB));
    return settings.with(Map.of(Options.CPU_CACHE_GB.name(), gigabytes), "1/8 of the memory:");
  }

  /**
   * Refuses a host pool that can never be there: filling it would get this process, or the engine
   * beside it, killed hours later.
   *
   * @param option the one that says so
   * @throws IOException with what was asked for, what there is, and the way out
   */
  void require(long poolBytes, Option option) throws IOException {
    if (poolBytes <= bytes) {
      return;
    }
    String remedy =
        option.equals(Options.CPU_CACHE_GB)
            ? "set %s (%s) to %.1f or less"
            : "make %s (%s) smaller: %.1f GB at most";
    double most = Math.floor(bytes * SENSIBLE_SHARE / GB * 10) / 10;
    throw new IOException(
        String.format(
            Locale.ROOT,
            "the host pool is to have %.1f GB (%s), %s %.1f GB: %s, or give the container more"
                + " memory",
            poolBytes / GB,
            option.name(),
            source,
            bytes / GB,
            String.format(Locale.ROOT, remedy, option.name(), option.env(), most)));
  }

  /**
   * The option that gave the host tier its size. An engine that starts a sidecar says in GB what it
   * was given in blocks, and names one source for both; no two options have the same one else.
   */
  static Option sizedBy(Settings settings) {
    String source = settings.source(Options.CPU_CACHE_GB);
    return !source.equals("default") && source.equals(settings.source(Options.NUM_CPU_BLOCKS))
        ? Options.NUM_CPU_BLOCKS
        : Options.CPU_CACHE_GB;
  }
}
