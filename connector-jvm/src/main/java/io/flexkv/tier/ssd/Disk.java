package io.flexkv.tier.ssd;

import java.io.IOException;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.nio.file.FileStore;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * The file system of a folder, or of what there is of the way to it.
 *
 * @param name where it is mounted, and its device: {@code /mnt/nvme (/dev/nvme0n1)}
 * @param system whether it is the root's, which has more to do than to hold blocks
 * @param totalBytes 0 for one of no disk
 * @param freeBytes that this user may take
 */
record Disk(String name, boolean system, long totalBytes, long freeBytes) {
  static Disk of(Path path) throws IOException {
    FileStore store = Files.getFileStore(existing(path));
    boolean system = store.equals(Files.getFileStore(Path.of("/")));
    return new Disk(store.toString(), system, store.getTotalSpace(), store.getUsableSpace());
  }

  /** The folder itself, or the nearest above it that is there. */
  private static Path existing(Path path) {
    Path found = path;
    while (!Files.exists(found) && found.getParent() != null) {
      found = found.getParent();
    }
    return found;
  }

  /**
   * What is said of a folder of the tier that was made here: a typo in its path, or a disk that is
   * not mounted, would else be seen when the system's disk is full.
   *
   * @param capacityBytes what it may take
   */
  String madeText(Path path, long capacityBytes) {
    String text =
        "SSD directory %s was not there and has been made on %s%s: %s GB are free there, it takes %s GB"
            .formatted(
                path,
                system ? "the system's disk, " : "",
                name,
                gigabytes(freeBytes, RoundingMode.DOWN),
                gigabytes(capacityBytes, RoundingMode.DOWN));
    return system
        ? text
            + ". If another disk is meant: stop the sidecar, remove the folder, and mount that disk"
            + " or set ssd_cache_dir (FLEXKV_SSD_CACHE_DIR) to a folder of it"
        : text;
  }

  /** GB as {@code ssd_cache_gb} has them; bounds are rounded so that what is shown is allowed. */
  static String gigabytes(long bytes, RoundingMode rounding) {
    return BigDecimal.valueOf(bytes, 9).setScale(4, rounding).stripTrailingZeros().toPlainString();
  }
}
