package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;

class OffHeapBlockIndexTest {
  @Test
  void everyOperation_comparedWithAHashMap_agrees() {
    Random random = new Random(11);
    BlockIndex index = new OffHeapBlockIndex(5);
    Map<BlockKey, Long> reference = new HashMap<>();
    List<BlockKey> keys = new ArrayList<>();
    for (int i = 0; i < 3_000; i++) {
      // Few distinct words, so that keys differ in one half only.
      keys.add(new BlockKey(random.nextInt(60), random.nextInt(60)));
    }
    for (int step = 0; step < 100_000; step++) {
      BlockKey key = keys.get(random.nextInt(keys.size()));
      index.approach(key.hi(), key.lo());
      int entry = index.find(key.hi(), key.lo());
      assertThat(entry != BlockIndex.NONE).isEqualTo(reference.containsKey(key));
      if (entry == BlockIndex.NONE) {
        int added = index.insert(key.hi(), key.lo());
        assertThat(index.getInt(added, EntryLayout.PARENT)).isEqualTo(BlockIndex.NONE);
        assertThat(index.getLong(added, EntryLayout.SLOT)).isZero();
        index.setLong(added, EntryLayout.SLOT, step + 1);
        reference.put(key, step + 1L);
      } else {
        assertThat(index.getLong(entry, EntryLayout.SLOT)).isEqualTo(reference.get(key));
        if (random.nextInt(3) > 0) {
          index.remove(entry);
          reference.remove(key);
        }
      }
      assertThat(index.size()).isEqualTo(reference.size());
    }
    assertThat(reference).isNotEmpty();
  }

  /** Tables are split some dozen times, rows lie in several chunks, handles come again. */
  @Test
  void manyEntries_grownAndRemovedAndGrownAgain_eachIsFoundWithItsFields() {
    BlockIndex index = new OffHeapBlockIndex(9);
    int many = 60_000;
    int[] entries = new int[many];
    for (int i = 0; i < many; i++) {
      entries[i] = index.insert(key(i), i);
      assertThat(entries[i]).as("handles have no gaps").isEqualTo(i);
      fill(index, entries[i], i);
    }
    for (int i = 0; i < many; i++) {
      checkFound(index, entries[i], i);
    }
    for (int i = 0; i < many; i += 2) {
      index.remove(entries[i]);
      assertThat(index.isEntry(entries[i])).isFalse();
    }
    for (int i = 0; i < many; i++) {
      if (i % 2 == 0) {
        assertThat(index.find(key(i), i)).isEqualTo(BlockIndex.NONE);
      } else {
        checkFound(index, entries[i], i);
      }
    }
    for (int i = many - 2; i >= 0; i -= 2) {
      int entry = index.insert(key(many + i), many + i);
      assertThat(entry).as("last out, first in").isEqualTo(entries[i]);
      assertThat(index.getInt(entry, EntryLayout.ATTEMPT_INDEX)).isZero();
      assertThat(index.getInt(entry, EntryLayout.SSD_NEWER)).isEqualTo(BlockIndex.NONE);
      fill(index, entry, many + i);
    }
    for (int i = 0; i < many; i += 2) {
      checkFound(index, entries[i], many + i);
    }
    assertThat(index.size()).isEqualTo(many);
    assertThat(index.handles()).isEqualTo(many);
  }

  @Test
  void reserve_byAnotherThreadMeanwhile_entriesKeepTheirFields() throws InterruptedException {
    BlockIndex index = new OffHeapBlockIndex(9);
    Thread other =
        Thread.ofPlatform()
            .start(() -> {
              while (!Thread.currentThread().isInterrupted()) {
                index.reserve();
              }
            });
    int many = 60_000;
    for (int i = 0; i < many; i++) {
      fill(index, index.insert(key(i), i), i);
    }
    other.interrupt();
    other.join();
    for (int i = 0; i < many; i++) {
      checkFound(index, i, i);
    }
  }

  /** Neighbours alike but for a few bits. */
  private static long key(int i) {
    return i / 16;
  }

  private static void fill(BlockIndex index, int entry, int value) {
    for (int field = EntryLayout.KEY_LO + 1; field < EntryLayout.LONGS; field++) {
      index.setLong(entry, field, (long) field << 40 | value);
    }
    for (int field = 0; field < EntryLayout.INTS; field++) {
      index.setInt(entry, field, field * 100_000 + value);
    }
  }

  private static void checkFound(BlockIndex index, int entry, int value) {
    if (index.find(key(value), value) != entry || !index.isEntry(entry)) {
      throw new AssertionError("entry " + entry + " of key " + value);
    }
    for (int field = EntryLayout.KEY_LO + 1; field < EntryLayout.LONGS; field++) {
      if (index.getLong(entry, field) != ((long) field << 40 | value)) {
        throw new AssertionError("entry " + entry + ", long " + field);
      }
    }
    for (int field = 0; field < EntryLayout.INTS; field++) {
      if (index.getInt(entry, field) != field * 100_000 + value) {
        throw new AssertionError("entry " + entry + ", int " + field);
      }
    }
  }

  @Test
  void insert_keyTwice_isRefused() {
    BlockIndex index = new OffHeapBlockIndex(5);
    index.insert(1, 2);
    assertThatThrownBy(() -> index.insert(1, 2)).hasMessageContaining("is taken");
  }

  @Test
  void remove_twice_isRefused() {
    BlockIndex index = new OffHeapBlockIndex(5);
    int entry = index.insert(1, 2);
    index.remove(entry);
    assertThatThrownBy(() -> index.remove(entry)).hasMessageContaining("not in the index");
  }
}
