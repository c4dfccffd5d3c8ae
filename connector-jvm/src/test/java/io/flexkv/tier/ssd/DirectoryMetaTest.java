package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;

class DirectoryMetaTest {
  private final DirectoryMeta meta = new DirectoryMeta(1, 1 << 20, 0, 1000);

  /** The directory has ended at 10, 20, 30 and so on, with sequences of 100, 200, 300. */
  private void cuts(int count) {
    for (int i = 1; i <= count; i++) {
      meta.resize(10 * i);
      meta.cut(100L * i);
    }
    meta.resize(1000);
  }

  private static DirectoryMeta again(DirectoryMeta meta) {
    MemorySegment copy = Arena.ofAuto().allocate(DirectoryMeta.BYTES, SsdStore.PAGE_BYTES);
    meta.encode(copy);
    DirectoryMeta decoded = DirectoryMeta.decode(copy);
    assertThat(decoded).isNotNull();
    return decoded;
  }

  @Test
  void cut_spansBeyondItOfBefore_areVoid() {
    cuts(DirectoryMeta.MAX_CUTS);
    DirectoryMeta same = again(meta);
    for (int i = 1; i <= DirectoryMeta.MAX_CUTS; i++) {
      assertThat(same.isCut(10L * i + 1, 100L * i - 1)).isTrue();
      assertThat(same.isCut(10L * i, 100L * i - 1)).as("it ends before").isFalse();
      assertThat(same.isCut(10L * i + 1, 100L * i)).as("it is of later").isFalse();
    }
  }

  @Test
  void cut_moreThanAreNoted_theTwoLastBecomeOne_andNothingComesBack() {
    int count = DirectoryMeta.MAX_CUTS + 1;
    cuts(count);
    DirectoryMeta same = again(meta);
    for (int i = 1; i <= count; i++) {
      assertThat(same.isCut(10L * i + 1, 100L * i - 1)).as("cut %d", i).isTrue();
    }
    for (int i = 1; i < count - 1; i++) {
      assertThat(same.isCut(10L * i + 1, 100L * i)).as("cut %d", i).isFalse();
    }
    assertThat(same.isCut(10L * (count - 1) + 1, 100L * (count - 1))).as("given up").isTrue();
  }

  @Test
  void cut_furtherDown_standsForThoseAbove() {
    cuts(5);
    meta.resize(7);
    meta.cut(900);
    meta.resize(1000);
    assertThat(meta.isCut(8, 899)).isTrue();
    assertThat(meta.isCut(7, 899)).isFalse();
    assertThat(meta.isCut(51, 900)).isFalse();
  }
}
