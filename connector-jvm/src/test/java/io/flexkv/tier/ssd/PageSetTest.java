package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.BitSet;
import java.util.Random;
import org.junit.jupiter.api.Test;

class PageSetTest {
  @Test
  void add_randomPages_isWhatABitForEachSays() {
    Random random = new Random(5);
    int pagesPerExtent = 7;
    PageSet pages = new PageSet(pagesPerExtent);
    BitSet naive = new BitSet();
    for (int i = 0; i < 3_000; i++) {
      int page = 1 + random.nextInt(1_400);
      if (random.nextBoolean()) {
        assertThat(pages.add(page)).isEqualTo(!naive.get(page));
        naive.set(page);
      }
      int inExtent = (page - 1) % pagesPerExtent;
      int count = 1 + random.nextInt(pagesPerExtent - inExtent);
      assertThat(pages.contains(page)).isEqualTo(naive.get(page));
      assertThat(pages.anyOf(page, count)).isEqualTo(naive.get(page, page + count).length() > 0);
    }
  }
}
