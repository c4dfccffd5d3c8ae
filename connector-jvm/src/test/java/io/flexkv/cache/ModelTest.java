package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;

/**
 * Seeded random calls, each answered by {@link CacheCore} and by {@link NaiveCache}: answers,
 * notices (of blocks in their order), states, tiers, pins, slots and what is in them must be the
 * same after every one. {@code -Dflexkv.sim.steps} makes it longer, {@code -Dflexkv.sim.seed}
 * repeats one run.
 */
class ModelTest {
  private static final int STEPS = Integer.getInteger("flexkv.sim.steps", 2_000);

  private static Map<String, Integer> runs(int runs, boolean withSsd) {
    Long only = Long.getLong("flexkv.sim.seed");
    Map<String, Integer> counts = new TreeMap<>();
    for (int run = 0; run < (only == null ? runs : 1); run++) {
      long seed = only == null ? 1_000 + run : only;
      try {
        new ModelRun(seed, withSsd, counts).go(STEPS);
      } catch (AssertionError | RuntimeException e) {
        throw new AssertionError("run with -Dflexkv.sim.seed=" + seed + ": " + e.getMessage(), e);
      }
    }
    System.out.printf(
        "model test%s: %d runs of %d calls: %s%n",
        withSsd ? " with an SSD" : "", runs, STEPS, counts);
    return counts;
  }

  @Test
  void everyCall_comparedWithTheNaiveReference_agrees() {
    assertThat(runs(12, false))
        .as("the run must have met each of these")
        .containsKeys(
            "hit", "part ok", "part failed", "evicted", "quarantined", "parked", "partial");
  }

  @Test
  void everyCall_withAnSsd_agrees() {
    assertThat(runs(24, true))
        .as("the run must have met each of these")
        .containsKeys(
            "hit",
            "part ok",
            "part failed",
            "evicted",
            "evicted from SSD",
            "quarantined",
            "ask again",
            "block read",
            "hit on SSD",
            "read for a load",
            "load cut",
            "read cancelled",
            "rotten block",
            "not written",
            "written",
            "directory lost",
            "adopted",
            "adopted for another",
            "restarted",
            "stalled");
  }
}
