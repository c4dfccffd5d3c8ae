package io.flexkv.device;

import java.util.Arrays;

/**
 * Which strided loads should go row by row, so that those after them are fast. Owned by a stream of
 * loads.
 *
 * <p>A strided copy waits for the GPU's address translations: 2 of some 7 microseconds. They are
 * there, for loads and saves, where a small plain copy to the device was the first to come within
 * 32 MiB of GPU memory since anything was last mapped or unmapped in this process; strided copies,
 * of which many come at once, do not bring them about. Some 8 GiB of memory have theirs at a time;
 * where blocks lie scattered over more, fewer copies gain. All of it measured:
 * docs/decisions/small-rows-move-as-strided-copies.md.
 *
 * <p>So the first block in each section of 16 MiB goes row by row, which brings them about for each
 * of its rows; but only after {@value #WORTH_IT} strided copies without a change of mappings, for
 * they change all the time while the pool is pinned.
 */
final class CudaSections {
  /** They lose about what some dozens of blocks cost row by row. */
  static final int WORTH_IT = 256;

  private static final int SECTION_BITS = 24;

  /** A power of two. Two sections that share a place cost some blocks more row by row. */
  private static final int PLACES = 4096;

  private final long[] visited = new long[PLACES];
  private long mappings;
  private int copies;

  /**
   * Whether the strided copy that is about to be made should go row by row.
   *
   * @param mappingsNow how often mappings have changed
   * @param device where it starts, not 0
   */
  boolean rowByRow(long mappingsNow, long device) {
    if (mappingsNow != mappings) {
      if (copies == WORTH_IT) {
        Arrays.fill(visited, 0);
      }
      mappings = mappingsNow;
      copies = 0;
    }
    if (copies < WORTH_IT) {
      copies++;
      return false;
    }
    long section = device >>> SECTION_BITS;
    int place = (int) section & (PLACES - 1);
    boolean first = visited[place] != section;
    visited[place] = section;
    return first;
  }
}
