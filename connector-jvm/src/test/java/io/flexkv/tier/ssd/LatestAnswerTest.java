package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;

class LatestAnswerTest {
  private final Set<List<Long>> wanted = new HashSet<>(Set.of(List.of(1L, 2L, 3L)));
  private int asked;
  private final Recovery.LatestAnswer latest =
      new Recovery.LatestAnswer((hi, lo, generation) -> {
        asked++;
        return wanted.contains(List.of(hi, lo, (long) generation));
      });

  @Test
  void test_anyOtherNamespaceOrGeneration_isAskedFor() {
    assertThat(latest.test(1, 2, 3)).isTrue();
    assertThat(latest.test(1, 2, 4)).isFalse();
    assertThat(latest.test(1, 2, 3)).isTrue();
    assertThat(latest.test(1, 5, 3)).isFalse();
    assertThat(latest.test(1, 2, 3)).isTrue();
    assertThat(latest.test(5, 2, 3)).isFalse();
    assertThat(latest.test(1, 2, 3)).isTrue();
  }

  @Test
  void test_theSameAgain_isAskedForOnce_untilToldToForget() {
    assertThat(latest.test(1, 2, 3)).isTrue();
    wanted.clear();
    assertThat(latest.test(1, 2, 3)).isTrue();
    assertThat(asked).isEqualTo(1);
    latest.forget();
    assertThat(latest.test(1, 2, 3)).isFalse();
  }
}
