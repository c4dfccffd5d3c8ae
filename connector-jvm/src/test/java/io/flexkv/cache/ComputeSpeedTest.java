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
        speed.planned(chain, 0, 128 * chunk, 128, 7 * MS + atNanos[chunk]);
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
        speed.planned(chain, 0, 64 * plan, 64, plan / 3 * 100L * MS + plan % 3 * 10_000L);
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
        speed.planned(chain, 0, 128 * chunk, 128, chunk * 100L * MS);
      }
      for (int block = 0; block < 100; block++) {
        speed.planned(chain, 0, 512 + block, 1, (400L + block * 160L) * MS);
      }
    }
    assertSpeed(1280);
  }

  /** Prompts of chunks of 128 blocks every 100 ms, each planned for three groups, 10 µs apart. */
  private void groupedPrompts(int prompts) {
    for (int prompt = 0; prompt < prompts; prompt++) {
      RequestChain chain = new RequestChain(0);
      for (int chunk = 0; chunk < 4; chunk++) {
        for (int group = 0; group < 3; group++) {
          speed.planned(chain, group, 128 * chunk, 128, chunk * 100L * MS + group * 10_000L);
        }
      }
    }
  }

  @Test
  void blocksPerSecond_severalGroups_isThatOfEachOfThem() {
    groupedPrompts(3);
    assertSpeed(1280);
  }

  @Test
  void blocksPerSecond_fewPromptsOfSeveralGroups_isUnknown() {
    groupedPrompts(2);
    assertSpeed(0);
  }

  /** A window's group may save less than the prompt: the first to be planned counts. */
  @Test
  void blocksPerSecond_anotherGroupBeginsLater_countsForNothing() {
    for (int prompt = 0; prompt < 3; prompt++) {
      RequestChain chain = new RequestChain(0);
      for (int chunk = 0; chunk < 4; chunk++) {
        speed.planned(chain, 1, 128 * chunk, 128, chunk * 100L * MS);
        speed.planned(chain, 0, 128 * chunk + 64, 64, chunk * 100L * MS + 50 * MS);
      }
    }
    assertSpeed(1280);
  }

  /** The second chunk waits for other requests, the last is short: what lies between counts. */
  @Test
  void blocksPerSecond_chunksOfUnlikeSizesAndTimes_countsBlocksAfterTheSecondByTheTimeSinceIt() {
    for (int prompt = 0; prompt < 3; prompt++) {
      RequestChain chain = new RequestChain(0);
      speed.planned(chain, 0, 0, 256, 0);
      speed.planned(chain, 0, 256, 128, 900 * MS);
      speed.planned(chain, 0, 384, 64, 1_000 * MS);
      speed.planned(chain, 0, 448, 32, 1_200 * MS);
    }
    assertSpeed((64 + 32) / 0.3);
  }

  /** Nine prompts at nine speeds, one of them as if nothing had been computed. */
  @Test
  void blocksPerSecond_promptsOfUnlikeSpeeds_isTheMedianOfTheLastNine() {
    prompts(5, 0, 30 * MS, 60 * MS, 90 * MS);
    for (int prompt = 1; prompt <= 9; prompt++) {
      prompts(1, 0, prompt * 100L * MS, prompt * 200L * MS);
    }
    assertSpeed(128 / 0.5);
  }

  /** A request that decodes and then computes much at once, as after a tool's answer. */
  @Test
  void blocksPerSecond_chunksAfterDecoding_areMeasuredAnew() {
    for (int prompt = 0; prompt < 3; prompt++) {
      RequestChain chain = new RequestChain(0);
      speed.planned(chain, 0, 0, 128, 0);
      for (int block = 0; block < 10; block++) {
        speed.planned(chain, 0, 128 + block, 1, (1 + block) * 160L * MS);
      }
      for (int chunk = 0; chunk < 3; chunk++) {
        speed.planned(chain, 0, 138 + 64 * chunk, 64, 2_000 * MS + chunk * 100L * MS);
      }
    }
    assertSpeed(640);
  }

  @Test
  void blocksPerSecond_oneChunkAfterDecoding_isUnknown() {
    for (int prompt = 0; prompt < 3; prompt++) {
      RequestChain chain = new RequestChain(0);
      speed.planned(chain, 0, 0, 128, 0);
      speed.planned(chain, 0, 128, 1, 100 * MS);
      speed.planned(chain, 0, 129, 64, 900 * MS);
    }
    assertSpeed(0);
  }
}
