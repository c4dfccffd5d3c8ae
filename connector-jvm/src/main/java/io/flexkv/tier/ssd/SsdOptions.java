package io.flexkv.tier.ssd;

import java.nio.file.Path;
import java.util.List;

/**
 * What an operator says about the disks.
 *
 * @param directories one a disk; blocks go to them in turns. Made if missing (mode 0700)
 * @param capacityBytes hard cap over all of them, headers included; each takes an equal share
 * @param maxFileBytes longest file; 0 = one file a directory
 * @param ringEntries disk accesses in flight a directory by io_uring; 0 = by threads
 * @param ringFlags {@code IORING_SETUP_*} bits of that ring, 0 for none
 * @param threads threads a directory where io_uring is off or not to be had
 * @param scrubBytesPerSecond how fast the background scrub reads; 0 = it does not run
 */
public record SsdOptions(
    List<Path> directories,
    long capacityBytes,
    long maxFileBytes,
    int ringEntries,
    int ringFlags,
    int threads,
    long scrubBytesPerSecond) {
  /** Most directories. */
  public static final int MAX_DIRECTORIES = 64;

  /** Deepest ring that the kernel makes. */
  public static final int MAX_RING_ENTRIES = 32768;

  public SsdOptions {
    directories = List.copyOf(directories);
    if (directories.isEmpty() || directories.size() > MAX_DIRECTORIES) {
      throw new IllegalArgumentException(
          "%d SSD directories, wanted 1 to %d".formatted(directories.size(), MAX_DIRECTORIES));
    }
    if (capacityBytes <= 0 || maxFileBytes < 0 || scrubBytesPerSecond < 0) {
      throw new IllegalArgumentException(
          "SSD capacity=%d max file=%d scrub=%d bytes, wanted more than 0, 0 or more, 0 or more"
              .formatted(capacityBytes, maxFileBytes, scrubBytesPerSecond));
    }
    if (ringEntries < 0 || ringEntries > MAX_RING_ENTRIES || threads < 1 || threads > 64) {
      throw new IllegalArgumentException(
          "SSD ring entries=%d threads=%d, wanted 0 to %d and 1 to 64"
              .formatted(ringEntries, threads, MAX_RING_ENTRIES));
    }
  }

  /** The cap of one directory. */
  long share() {
    return capacityBytes / directories.size();
  }

  /** The same with another cap. */
  SsdOptions withCapacity(long bytes) {
    return new SsdOptions(
        directories, bytes, maxFileBytes, ringEntries, ringFlags, threads, scrubBytesPerSecond);
  }

  /** One file a directory, io_uring with 64 entries where it is to be had, else 8 threads. */
  public static SsdOptions of(List<Path> directories, long capacityBytes) {
    return new SsdOptions(directories, capacityBytes, 0, 64, 0, 8, 0);
  }
}
