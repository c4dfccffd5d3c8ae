package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

/** The engine's speed, by when it plans the saves of its prompts. */
class ComputeSpeedTest {
  private static final long MS = 1_000_000;

  private final ComputeSpeed speed = new ComputeSpeed();

  /** Prompts of chunks of 128 blocks that are planned at these times. */
  private void prompts(int prompts, long... atNanos) {
    for (int prompt = 0; prompt < prompts; prompt++) {
      RequestChain chain = new RequestChain(0);
      for (int chunk = 0; chunk < atNanos.length; chunk++) {
        speed.planned(chain, 128 * chunk, 128, 7 * MS + atNanos[chunk]);
      }
    }
  }

  private void assertSpeed(double blocksPerSecond) {
    assertThat(speed.blocksPerSecond()).isCloseTo(blocksPerSecond, within(0.01));
  }

  @Test
  void blocksPerSecond_chunkAfterChunk_isThatOfAChunk() {
    prompts(3, 0, 100 * MS, 200 * MS, 300 * MS);
    assertSpeed(1280);
  }

  @Test
  void blocksPerSecond_scheduledAhead_isThatOfAChunk() {
    prompts(3, 0, MS, 100 * MS, 200 * MS, 300 * MS);
    assertSpeed(1280);
  }

  @Test
  void blocksPerSecond_scheduledAheadBehindAnotherStep_isThatOfAChunk() {
    prompts(3, 0, 25 * MS, 125 * MS, 225 * MS);
    assertSpeed(1280);
  }

  @Test
  void blocksPerSecond_chunksInSeveralPlans_isThatOfAChunk() {
    for (int prompt = 0; prompt < 3; prompt++) {
      RequestChain chain = new RequestChain(0);
      for (int plan = 0; plan < 12; plan++) { // three of 64, 10 µs apart, every 100 ms
        speed.planned(chain, 64 * plan, 64, plan / 3 * 100L * MS + plan % 3 * 10_000L);
      }
    }
    assertSpeed(1920);
  }

  @Test
  void blocksPerSecond_plansAtOnceOnly_isUnknown() {
    prompts(9, 0, 1_000, MS, MS + 1_000);
    assertSpeed(0);
  }

  @Test
  void blocksPerSecond_soonerThanCanBeTold_isUnknown() {
    prompts(9, 0, 6 * MS, 12 * MS, 18 * MS);
    assertSpeed(0);
  }

  @Test
  void blocksPerSecond_twoChunks_isUnknown() {
    prompts(9, 0, 100 * MS);
    assertSpeed(0);
  }

  @Test
  void blocksPerSecond_fewPrompts_isUnknown() {
    prompts(2, 0, 100 * MS, 200 * MS, 300 * MS, 400 * MS, 500 * MS);
    assertSpeed(0);
  }

  /** A request that decodes plans a block now and then. */
  @Test
  void blocksPerSecond_decoding_countsForNothing() {
    for (int prompt = 0; prompt < 3; prompt++) {
      RequestChain chain = new RequestChain(0);
      for (int chunk = 0; chunk < 4; chunk++) {
        speed.planned(chain, 128 * chunk, 128, chunk * 100L * MS);
      }
      for (int block = 0; block < 100; block++) {
        speed.planned(chain, 512 + block, 1, (400L + block * 160L) * MS);
      }
    }
    assertSpeed(1280);
  }
}
