package io.flexkv.session;

import io.flexkv.tier.ssd.SsdStore;
import java.util.List;
import java.util.Locale;

/**
 * Whether an SSD tier is large enough for the blocks of an engine. How large those are is known
 * only once its ranks have registered, long after the tier began.
 */
final class SsdFit {
  /** Of a small directory, headers take up to half. */
  private static final int HEADERS_SHARE = 2;

  /** Blocks that a directory should hold at least, for the remedy. */
  private static final int SENSIBLE_BLOCKS = 64;

  private static final double GB = 1e9;

  private SsdFit() {}

  /**
   * A sentence where hardly a block fits into any directory, else nothing.
   *
   * @param blockBytes of all parts together, which lie in one slot
   */
  static String objection(long blockBytes, List<SsdStore.DirectoryStatus> directories) {
    long largest =
        directories.stream().mapToLong(SsdStore.DirectoryStatus::capacityBytes).max().orElse(0);
    if (largest == 0 || blockBytes <= largest / HEADERS_SHARE) {
      return "";
    }
    return String.format(
        Locale.ROOT,
        "a block has %d bytes, a folder of the SSD tier %d and its headers: hardly one fits, and"
            + " the tier is of no use. Remedy: set ssd_cache_gb (FLEXKV_SSD_CACHE_GB) to %.2f or"
            + " more",
        blockBytes,
        largest,
        Math.max(0.01, SENSIBLE_BLOCKS * HEADERS_SHARE * blockBytes * directories.size() / GB));
  }
}
