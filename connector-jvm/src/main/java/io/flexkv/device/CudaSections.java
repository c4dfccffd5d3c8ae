package io.flexkv.device;

import java.util.Arrays;

/**
 * Which strided loads should go row by row, so that those after them are fast. Owned by a stream of
 * loads.
 *
 * <p>A strided copy waits for the GPU's address translations: 2 of some 7 microseconds. They are
 * there, for loads and saves, where a small plain copy to the device was by itself the first to
 * come within 32 MiB of GPU memory since anything was last mapped or unmapped in this process;
 * strided copies, of which many come at once, do not bring them about, nor does a plain one among
 * them. Some 8 GiB of memory have theirs at a time; where blocks lie scattered over more, fewer
 * copies gain. All of it measured: docs/decisions/small-rows-move-as-strided-copies.md.
 *
 * <p>So the next {@value #ROWS} rows go by themselves when nothing else is on its way, and from
 * then on the first block in each section of 16 MiB; but only after {@value #WORTH_IT} strided
 * copies without a change of mappings, for they change all the time while the pool is pinned. Of
 * rows that the processor would not write, the beginning goes by itself, before the strided copy.
 */
final class CudaSections {
  /** Slow copies lose in it about what the rows cost. */
  static final int WORTH_IT = 256;

  /** After so many copies it is time even if there always is something on its way. */
  static final int PATIENCE = 8192;

  /** Scattered over 8 GiB they meet 98 of a hundred times 32 MiB. */
  static final int ROWS = 1024;

  /** Wider rows the processor does not write itself, or not soon; their beginning will do. */
  static final long BY_PROCESSOR_UP_TO = 16L << 10;

  static final long TOUCH_BYTES = 4L << 10;

  private static final int SECTION_BITS = 24;

  /** A power of two. Two sections that share a place cost some blocks more row by row. */
  private static final int PLACES = 4096;

  private final long[] visited = new long[PLACES];
  private long mappings;
  private int copies;
  private boolean begun;
  private long rowsLeft;
  private boolean amongTheFirst;

  /**
   * Whether the rows of the strided copy that is about to be made, or their beginnings, should go
   * by themselves.
   *
   * @param mappingsNow how often mappings have changed
   * @param device where it starts, not 0
   * @param rows of it
   * @param alone whether none of the stream's copies were on their way when this slice came
   */
  boolean rowByRow(long mappingsNow, long device, long rows, boolean alone) {
    if (mappingsNow != mappings) {
      restart(mappingsNow);
    }
    if (!begun) {
      copies++;
      if (copies <= WORTH_IT || !(alone || copies > PATIENCE)) {
        return false;
      }
      begun = true;
      rowsLeft = ROWS;
    }
    boolean first = visit(device >>> SECTION_BITS);
    amongTheFirst = rowsLeft > 0;
    if (amongTheFirst) {
      rowsLeft -= rows;
      return true;
    }
    return first;
  }

  /** Whether the copy that was last told to go row by row is one of the {@value #ROWS} rows. */
  boolean amongTheFirst() {
    return amongTheFirst;
  }

  private void restart(long mappingsNow) {
    if (begun) {
      Arrays.fill(visited, 0);
    }
    mappings = mappingsNow;
    copies = 0;
    begun = false;
  }

  private boolean visit(long section) {
    int place = (int) section & (PLACES - 1);
    boolean first = visited[place] != section;
    visited[place] = section;
    return first;
  }
}
