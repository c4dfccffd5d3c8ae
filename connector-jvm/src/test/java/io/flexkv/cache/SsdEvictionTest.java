package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.SECOND;
import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.EvictionSettings.Policy;
import io.flexkv.cache.RecordedEffects.Evicted;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfSystemProperty;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The SSD tier makes room as the host tier does: by the same policy, from the same thresholds. */
class SsdEvictionTest {
  private static final SsdConfig CONFIG =
      new SsdConfig(WritePolicy.THROUGH, 1000, 1000, 1000, 1000, 64, 0, SECOND / 2);

  /** The host tier has room for all, the SSD for six blocks. */
  private final CoreFixture f = new CoreFixture(40, 6, CONFIG);

  @AfterEach
  void links() {
    TreeChecker.check(f.core);
  }

  private static EvictionSettings policy(Policy policy) {
    return new EvictionSettings(policy, 0, 2, 1, 0);
  }

  /** Chains 1, 2 and 3 of two blocks each, of which 1 was found twice, and 2 once and last. */
  private void threeChains() {
    for (long chain = 1; chain <= 3; chain++) {
      f.cached(chain, 2);
      f.writeAll();
    }
    f.servable(1, 2);
    f.servable(1, 2);
    f.servable(2, 2);
  }

  /** The chain that makes room on the SSD for another. */
  private long victimOf(long chain) {
    f.effects.evicted.clear();
    f.cached(chain, 1);
    f.writeAll();
    assertThat(f.effects.evicted).extracting(Evicted::tier).containsExactly(Tier.SSD);
    return f.effects.evicted.getFirst().hash() / 1_000_000;
  }

  @ParameterizedTest
  @CsvSource({"LRU,3", "LFU,3", "SLRU,3", "FIFO,1", "MRU,2", "FILO,3"})
  void write_ssdFull_theVictimIsThePolicys(Policy policy, long victim) {
    f.core.setEviction(policy(policy));
    threeChains();
    assertThat(victimOf(7)).isEqualTo(victim);
  }

  @Test
  void write_fewHitsLongAgo_goBeforeManyLongerAgo() {
    f.core.setEviction(policy(Policy.LFU));
    threeChains();
    assertThat(victimOf(7)).as("never found").isEqualTo(3);
    assertThat(victimOf(8)).as("its other block").isEqualTo(3);
    f.servable(7, 1);
    f.servable(7, 1);
    f.servable(8, 1);
    f.servable(8, 1);
    assertThat(victimOf(9)).as("found once").isEqualTo(2);
  }

  @Test
  void setEviction_whileBlocksAreThere_keepsTheirOrderOfUse() {
    threeChains();
    f.core.setEviction(policy(Policy.MRU));
    TreeChecker.check(f.core);
    assertThat(victimOf(7)).isEqualTo(2);
    f.core.setEviction(policy(Policy.LRU));
    assertThat(victimOf(8)).isEqualTo(3);
  }

  @Test
  void write_parentIsTheMostRecent_isNotItsVictim() {
    f.core.setEviction(policy(Policy.MRU));
    f.cached(1, 6);
    f.writeAll();
    f.effects.evicted.clear();
    f.extend(2, 1, 7);
    long job = f.planSave(2, 6, 1);
    f.core.go(job, 0);
    f.core.savePartDone(job, 0, CoreFixture.ok(1));
    f.writeAll();
    assertThat(f.effects.evicted).as("all above it is its own chain").isEmpty();
    assertThat(f.core.stats().ssd().writesSkipped()).isOne();
  }

  @Test
  void write_evictRatio_evictsThatShareAtOnce() {
    f.core.setEviction(new EvictionSettings(Policy.LRU, 0, 2, 1, 0.5));
    threeChains();
    f.effects.evicted.clear();
    f.cached(7, 1);
    f.writeAll();
    assertThat(f.effects.evicted).extracting(Evicted::tier).containsOnly(Tier.SSD).hasSize(3);
    assertThat(f.core.stats().ssd().blocks()).isEqualTo(4);
  }

  @Test
  void write_startThresholdReached_evictsDownToIt() {
    f.core.setEviction(new EvictionSettings(Policy.LRU, 0, 2, 0.5, 0));
    f.cached(1, 4);
    f.writeAll();
    f.effects.evicted.clear();
    f.cached(2, 1);
    assertThat(f.effects.evicted.stream().filter(e -> e.tier() == Tier.SSD))
        .as("from 4 of 6 to 3, for the next")
        .hasSize(1);
  }

  @Test
  void tick_ssdTakesNothing_evictsNothingAhead() {
    f.core.setEviction(new EvictionSettings(Policy.LRU, 0, 2, 1, 1));
    threeChains();
    f.cached(7, 1);
    f.ssdSlots.stalled = true;
    long before = f.core.stats().ssd().blocks();
    f.core.tick();
    assertThat(f.core.stats().ssd().blocks()).isEqualTo((int) before);
    f.extend(9, 7, 1);
    assertThat(f.core.lookup(ENGINE, 9, 0, 0, 1).servableBlocks()).isOne();
  }

  /**
   * What the policies are worth, host tier and SSD together: the table of the decision ({@code
   * docs/decisions/one-eviction-policy-for-every-tier.md}). See {@link WritePolicyTraceTest}.
   */
  @Test
  @EnabledIfSystemProperty(named = "flexkv.trace", matches = ".+")
  void wholeTrace_everyPolicy_isPrinted() throws IOException {
    List<TraceReplay.Request> trace;
    try (InputStream in = Files.newInputStream(Path.of(System.getProperty("flexkv.trace")))) {
      trace = TraceReplay.read(in);
    }
    System.out.println("| host | SSD | policy | hit % | of it host % |");
    for (int ssd : new int[] {10_000, 50_000, 100_000}) {
      for (Policy policy : Policy.values()) {
        TraceReplay.Result is = play(trace, 2_000, ssd, policy);
        System.out.printf(
            "| 2000 | %d | %s | %.2f | %.2f |%n", ssd, policy, is.hitPercent(), is.hostPercent());
      }
    }
  }

  private static TraceReplay.Result play(
      List<TraceReplay.Request> trace, int host, int ssd, Policy policy) {
    return TraceReplay.play(trace, host, ssd, WritePolicy.THROUGH, policy(policy), 1e6);
  }
}
