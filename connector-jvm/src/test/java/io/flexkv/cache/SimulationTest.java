package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;

/**
 * The core in a simulated world: engines that overwrite their blocks, ranks and engines that die,
 * movers that are late, fail, repeat and forget, resets, and pools that hold a fraction of what is
 * saved; its process is killed at any step, and the next one begins with what the disk holds. Every
 * load that ends well must have brought exactly the right bytes, no slot may be given back while a
 * copy touches it, and nothing may be left over at the end.
 *
 * <p>{@code -Dflexkv.sim.steps} makes it longer, {@code -Dflexkv.sim.seed} repeats one run.
 */
class SimulationTest {
  private static final int STEPS = Integer.getInteger("flexkv.sim.steps", 16_000);
  private static final int RUNS = 24;

  @Test
  void anyInterleaving_withFaults_neverDeliversWrongBytesAndLeavesNothing() {
    Long only = Long.getLong("flexkv.sim.seed");
    Map<String, Integer> counts = new TreeMap<>();
    for (int run = 0; run < (only == null ? RUNS : 1); run++) {
      long seed = only == null ? 7_000 + run : only;
      try {
        new Simulation(seed, counts).run(STEPS);
      } catch (AssertionError | RuntimeException e) {
        throw new AssertionError("run with -Dflexkv.sim.seed=" + seed + ": " + e.getMessage(), e);
      }
    }
    assertThat(counts)
        .as("the runs must have met each of these")
        .containsKeys(
            "checked",
            "evicted",
            "engine died",
            "rank died",
            "reset",
            "revoked",
            "reported twice",
            "hit on SSD",
            "ask again",
            "load began early",
            "read cancelled",
            "rotten block",
            "read failed",
            "block not written",
            "transfer stalled",
            "transfer told twice",
            "directory lost",
            "evicted from SSD",
            "resized",
            "slots to be given back",
            "SSD resized",
            "SSD slots to be given back",
            "left on SSD and right",
            "killed",
            "recovered at once",
            "adopted",
            "torn block");
    System.out.printf("simulation: %d runs of %d steps: %s%n", RUNS, STEPS, counts);
  }
}
