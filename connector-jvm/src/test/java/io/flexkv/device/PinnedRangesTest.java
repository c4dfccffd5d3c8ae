package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.util.List;
import org.junit.jupiter.api.Test;

/** Which bytes of the pool count as pinned; the memory itself is not touched. */
class PinnedRangesTest {
  private static final long PIECE = PinnedRanges.PIECE_BYTES;

  private static List<MemorySegment> pool(long bytes) {
    return List.of(MemorySegment.ofAddress(1L << 40).reinterpret(bytes));
  }

  @Test
  void takeLast_refusedByTheDriver_countsAsPinnedAgain() {
    PinnedRanges ranges = new PinnedRanges(pool(2 * PIECE + 4096));
    for (long end = ranges.nextEnd(0); ranges.pinned(0) < ranges.length(0); ) {
      ranges.pinnedUpTo(0, end);
      end = ranges.nextEnd(0);
    }
    ranges.resize(pool(PIECE));
    assertThat(ranges.pinnedBeyond(0)).isTrue();
    long end = ranges.pinned(0);
    assertThat(ranges.takeLast(0)).isEqualTo(2 * PIECE);
    assertThat(ranges.pinned(0)).isEqualTo(2 * PIECE);
    ranges.pinnedUpTo(0, end);
    assertThat(ranges.pinnedOfEach()).containsExactly(2 * PIECE + 4096);
    assertThat(ranges.takeLast(0)).as("the same piece again").isEqualTo(2 * PIECE);
    assertThat(ranges.takeLast(0)).isEqualTo(PIECE);
    assertThat(ranges.pinnedBeyond(0)).isFalse();
  }
}
