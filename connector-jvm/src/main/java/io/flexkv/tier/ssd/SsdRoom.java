package io.flexkv.tier.ssd;

import java.io.IOException;
import java.math.RoundingMode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * How large a tier can become while it serves, for a refusal that says what would work.
 *
 * <p>All its folders have the same share. So the least of them decides, and folders of one disk
 * divide what is free there.
 */
final class SsdRoom {
  /** Of what is free, what a remedy names: a file system needs some for itself. */
  private static final double SENSIBLE_SHARE = 0.99;

  /** Where a folder lies. */
  @FunctionalInterface
  interface Disks {
    Disk of(Path folder) throws IOException;
  }

  private final Disks disks;

  SsdRoom(Disks disks) {
    this.disks = disks;
  }

  /**
   * Whether these folders can have the wanted size.
   *
   * @param serving those that take part; others take their share when they are attached again
   * @throws IOException if they cannot; the text has the remedy
   */
  void require(List<DirectoryFiles> serving, SsdOptions wanted) throws IOException {
    int count = wanted.directories().size();
    long least = 0;
    long most = Long.MAX_VALUE;
    Map<String, Shared> shared = new LinkedHashMap<>();
    for (DirectoryFiles files : serving) {
      least = Math.max(least, count * files.bytesOf(DirectoryFiles.MIN_EXTENTS));
      most = Math.min(most, count * files.bytesOf(files.mostExtents()));
      Disk disk = disks.of(files.path());
      shared.computeIfAbsent(disk.name(), name -> new Shared(disk)).folders.add(files);
    }
    requireRoom(List.copyOf(shared.values()), wanted, most);
    String beginning =
        "%s GB cannot be while it serves. Remedy: flexkv set ssd_cache_gb="
            .formatted(gigabytes(wanted.capacityBytes(), RoundingMode.HALF_EVEN));
    if (wanted.capacityBytes() < least) {
      throw new IOException(
          "%s%s or more, or restart the sidecar with another size"
              .formatted(beginning, gigabytes(least, RoundingMode.UP)));
    }
    if (wanted.capacityBytes() > most) {
      throw new IOException(
          "%s%s or less, or restart the sidecar with that size"
              .formatted(beginning, gigabytes(most, RoundingMode.DOWN)));
    }
  }

  private static void requireRoom(List<Shared> disks, SsdOptions wanted, long most)
      throws IOException {
    long fits = most;
    for (Shared one : disks) {
      fits = Math.min(fits, wanted.directories().size() * one.sensibleShare());
    }
    for (Shared one : disks) {
      long more = one.missing(wanted.share());
      if (more > one.disk.freeBytes()) {
        throw new IOException(
            "%s needs %s GB more on %s, where %s are free. Remedy: %s"
                .formatted(
                    one.names(),
                    gigabytes(more, RoundingMode.UP),
                    one.disk.name(),
                    gigabytes(one.disk.freeBytes(), RoundingMode.DOWN),
                    remedy(fits)));
      }
    }
  }

  private static String remedy(long bytes) {
    return "flexkv set ssd_cache_gb=%s or less, or free some room there first"
        .formatted(gigabytes(bytes, RoundingMode.DOWN));
  }

  private static String gigabytes(long bytes, RoundingMode rounding) {
    return Disk.gigabytes(bytes, rounding);
  }

  /** A disk, and what lies there. */
  private static final class Shared {
    private final Disk disk;
    private final List<DirectoryFiles> folders = new ArrayList<>();

    private Shared(Disk disk) {
      this.disk = disk;
    }

    private String names() {
      List<String> paths = folders.stream().map(files -> files.path().toString()).toList();
      return "SSD directory " + String.join(" with ", paths);
    }

    /** Bytes that a share needs here besides what the folders have. */
    private long missing(long share) throws IOException {
      long more = 0;
      for (DirectoryFiles files : folders) {
        more += Math.max(0, files.dataBytesOf(share) - files.heldBytes());
      }
      return more;
    }

    /** The share that there is room for. */
    private long sensibleShare() throws IOException {
      long bytes = (long) (disk.freeBytes() * SENSIBLE_SHARE);
      for (DirectoryFiles files : folders) {
        bytes += files.heldBytes();
      }
      return bytes / folders.size() + DirectoryFiles.FIXED_BYTES;
    }
  }
}
