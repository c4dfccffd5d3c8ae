package io.flexkv.tier;

import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.Linux;
import io.flexkv.ffm.SharedMemory;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * The pages that a pool consists of. The kernel takes them back one by one when the process dies,
 * and until it has, an engine must not reuse the blocks of an open load: so the larger the better,
 * and no shared memory, whose pages take longest.
 *
 * @param reserved whether they come out of the reserve of huge pages
 * @param bytes of one page
 * @param placement the NUMA nodes that they come from
 */
public record PoolPages(boolean reserved, long bytes, NumaPlacement placement) {
  /** Private memory, in transparent huge pages where the system offers them. */
  public static final PoolPages OF_THE_SYSTEM =
      new PoolPages(false, HostPool.PAGE_BYTES, NumaPlacement.anywhere("off"));

  private static final Path RESERVES = Path.of("/sys/kernel/mm/hugepages");

  /**
   * Huge pages that the administrator has reserved.
   *
   * @throws IOException if no page can have that size
   */
  public static PoolPages reserved(long bytes) throws IOException {
    if (Long.bitCount(bytes) != 1 || bytes < HostPool.PAGE_BYTES) {
      throw new IOException(
          "hugepage_size_bytes=%d, wanted a power of two from %d on, such as 2097152"
              .formatted(bytes, HostPool.PAGE_BYTES));
    }
    return new PoolPages(true, bytes, NumaPlacement.anywhere("off"));
  }

  /** The same from certain NUMA nodes. */
  public PoolPages placed(NumaPlacement where) {
    return new PoolPages(reserved, bytes, where);
  }

  /**
   * Whether memory of this kind is had by the piece and given back by the piece. Reserved pages are
   * taken out of the reserve at once, and go back to it with the process.
   */
  boolean byThePiece() {
    return !reserved;
  }

  /**
   * Maps a segment of which {@code length} bytes are wanted now; the rest of it is to be
   * {@linkplain SharedMemory#open opened} later.
   *
   * @param whole what it may have one day, where pages are had by the piece
   * @throws IOException if there is not enough of it; with the remedy
   */
  MemorySegment map(String name, long length, long whole, Arena arena) throws IOException {
    MemorySegment mapped = mapAnywhere(name, length, whole, arena);
    placement.apply(mapped);
    return mapped;
  }

  private MemorySegment mapAnywhere(String name, long length, long whole, Arena arena)
      throws IOException {
    if (!reserved) {
      return SharedMemory.reserve(whole, length, true, arena);
    }
    Path reserve = RESERVES.resolve("hugepages-%dkB".formatted(bytes >> 10));
    try {
      int fd = SharedMemory.createHugeMemfd(name, length, bytes);
      try {
        return SharedMemory.mapShared(fd, length, arena);
      } finally {
        Linux.close(fd);
      }
    } catch (ErrnoException e) {
      throw new IOException(
          ("host pool: %d huge pages of %d bytes cannot be had (%s): free are %s of %s; reserve them"
                  + " (as root: echo %d > %s), or unset use_hugepage_cpu_buffer")
              .formatted(
                  length / bytes,
                  bytes,
                  e.getMessage(),
                  number(reserve.resolve("free_hugepages")),
                  number(reserve.resolve("nr_hugepages")),
                  length / bytes,
                  reserve.resolve("nr_hugepages")),
          e);
    }
  }

  private static String number(Path file) {
    try {
      return Files.readString(file).strip();
    } catch (IOException e) {
      return "none";
    }
  }
}
