package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.tier.ssd.RecoverySink.Survivor;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import org.junit.jupiter.api.Test;

class WaitingSurvivorsTest {
  private static final int BYTES = 400;

  private final List<Long> spilled = new ArrayList<>();
  private final WaitingSurvivors waiting =
      new WaitingSurvivors(4 * BYTES, survivor -> spilled.add(survivor.slot()));

  /** A child of this block; its slot has its key. */
  private void add(long key, long parent, int eventBytes) {
    SlotHeader header = SsdRig.header(key, parent, 0, 4096, eventBytes);
    waiting.add(digest(parent), new Survivor(key, header));
  }

  private static long digest(long key) {
    return SsdRig.header(key, 0, 0, 4096).identity().digest();
  }

  private List<Long> released(long parent) {
    Deque<Survivor> into = new ArrayDeque<>();
    waiting.release(digest(parent), into);
    return into.stream().map(Survivor::slot).toList();
  }

  @Test
  void release_childrenAndTheirChildren_parentsFirst_others_stay() {
    add(3, 2, 0);
    add(2, 1, 0);
    add(4, 1, 0);
    add(9, 8, 0);
    assertThat(released(1)).containsExactly(2L, 4L, 3L);
    assertThat(waiting.isEmpty()).isFalse();
    assertThat(released(1)).isEmpty();
    assertThat(released(8)).containsExactly(9L);
    assertThat(waiting.isEmpty()).isTrue();
    assertThat(spilled).isEmpty();
  }

  @Test
  void add_moreThanHasRoom_thoseThatWaitLongestGiveWay_eventDataCounts() {
    for (int key = 1; key <= 4; key++) {
      add(key, 100 + key, 0);
    }
    assertThat(spilled).isEmpty();
    add(5, 105, 1);
    assertThat(spilled).as("1,601 bytes more than 1,600").containsExactly(1L, 2L);
  }

  @Test
  void room_ofWhatWasReleasedOrSpilled_isThereAgain() {
    for (int round = 0; round < 3; round++) {
      for (int key = 1; key <= 4; key++) {
        add(key, 100, 0);
      }
      assertThat(spilled).as("round %d", round).isEmpty();
      assertThat(released(100)).hasSize(4);
    }
    add(1, 100, 0);
    waiting.spillAll();
    assertThat(spilled).containsExactly(1L);
    assertThat(waiting.isEmpty()).isTrue();
    for (int key = 1; key <= 4; key++) {
      add(key, 100, 0);
    }
    assertThat(spilled).hasSize(1);
  }
}
