package io.flexkv.events;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.Test;

class FactTableTest {
  private static final int HASH_BYTES = 16;
  private static final int BLOCK_TOKENS = 4;

  private final FactTable table = new FactTable(BLOCK_TOKENS, 1 << 20, 100);

  private void learn(long hash, int extraBytes) {
    assertThat(table.takes(HASH_BYTES, BLOCK_TOKENS)).isTrue();
    MemorySegment from = MemorySegment.ofArray(new byte[HASH_BYTES + 4 * BLOCK_TOKENS]);
    from.set(
        ValueLayout.JAVA_LONG_UNALIGNED.withOrder(java.nio.ByteOrder.BIG_ENDIAN),
        HASH_BYTES - 8,
        hash);
    table.learn(0, from, 0, -1, HASH_BYTES, new byte[extraBytes]);
  }

  private boolean knows(long hash) {
    return table.find(0, hash) != FactTable.NONE;
  }

  @Test
  void learn_extraKeysBeyondTheBound_oldestThatWaitGiveWayAndThoseWithoutStay() {
    learn(1, 0);
    learn(2, 60);
    learn(3, 40);
    learn(4, 30);
    assertThat(knows(1)).isTrue();
    assertThat(knows(2)).isFalse();
    assertThat(knows(3)).isTrue();
    assertThat(knows(4)).isTrue();
    assertThat(table.droppedFacts()).isOne();
  }

  @Test
  void learn_extraKeysOfResidentFactsFillTheBound_newOneIsNotKeptUntilOneGoes() {
    learn(1, 60);
    learn(2, 40);
    table.stored(0, 1, 0);
    table.stored(0, 2, 0);
    learn(3, 50);
    assertThat(knows(3)).isFalse();
    assertThat(knows(1)).as("what is announced stays").isTrue();
    table.evicted(0, 1, 0);
    learn(3, 50);
    assertThat(knows(3)).isTrue();
    table.clear();
    learn(4, 100);
    assertThat(knows(4)).isTrue();
  }
}
