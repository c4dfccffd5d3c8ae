package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;

class LongMapTest {
  @Test
  void everyOperation_comparedWithAHashMap_agrees() {
    Random random = new Random(17);
    LongMap<String> map = new LongMap<>();
    Map<Long, String> reference = new HashMap<>();
    for (int step = 0; step < 100_000; step++) {
      long key = random.nextInt(500) - 250L;
      assertThat(map.get(key)).isEqualTo(reference.get(key));
      if (reference.containsKey(key)) {
        assertThat(map.remove(key)).isEqualTo(reference.remove(key));
      } else if (random.nextBoolean()) {
        map.putNew(key, "v" + step);
        reference.put(key, "v" + step);
      } else {
        assertThat(map.remove(key)).isNull();
      }
      assertThat(map.size()).isEqualTo(reference.size());
    }
    List<String> values = new ArrayList<>();
    map.forEach(values::add);
    assertThat(values).containsExactlyInAnyOrderElementsOf(reference.values());
    map.clear();
    assertThat(map.size()).isZero();
    assertThat(map.get(3)).isNull();
  }

  @Test
  void putNew_keyThatIsTaken_isRefused() {
    LongMap<String> map = new LongMap<>();
    map.putNew(0, "zero");
    assertThatThrownBy(() -> map.putNew(0, "again")).isInstanceOf(IllegalStateException.class);
  }
}
