package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;

class HeapBlockIndexTest {
  @Test
  void everyOperation_comparedWithAHashMap_agrees() {
    Random random = new Random(11);
    BlockIndex index = new HeapBlockIndex(5);
    Map<BlockKey, Long> reference = new HashMap<>();
    List<BlockKey> keys = new ArrayList<>();
    for (int i = 0; i < 3_000; i++) {
      // Few distinct words, so that keys differ in one half only.
      keys.add(new BlockKey(random.nextInt(60), random.nextInt(60)));
    }
    for (int step = 0; step < 100_000; step++) {
      BlockKey key = keys.get(random.nextInt(keys.size()));
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

  @Test
  void insert_keyTwice_isRefused() {
    BlockIndex index = new HeapBlockIndex(5);
    index.insert(1, 2);
    assertThatThrownBy(() -> index.insert(1, 2)).hasMessageContaining("is taken");
  }

  @Test
  void remove_twice_isRefused() {
    BlockIndex index = new HeapBlockIndex(5);
    int entry = index.insert(1, 2);
    index.remove(entry);
    assertThatThrownBy(() -> index.remove(entry)).hasMessageContaining("not in the index");
  }
}
