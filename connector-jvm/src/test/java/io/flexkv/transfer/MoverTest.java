package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.GrowingBlocks;
import io.flexkv.device.Direction;
import io.flexkv.device.SliceLimits;
import java.util.Arrays;
import java.util.BitSet;
import java.util.concurrent.atomic.AtomicLongArray;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Loads and saves that end well: their bytes, their order, and what waits for what. */
@Timeout(60)
final class MoverTest {
  @Test
  void save_thenLoad_imagesAreRegionsOneAfterAnother() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      f.fillEngine(1);
      int[] blocks = {5, 63, 0, 17, 18, 19};
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, blocks))).isTrue();
      Completion saved = f.next();
      assertThat(saved.status()).isEqualTo(Completion.Status.OK);
      assertThat(saved.jobId()).isEqualTo(1);
      assertThat(saved.part()).isEqualTo(7);
      assertThat(saved.direction()).isEqualTo(Direction.SAVE);
      assertThat(saved.blocksOk()).isEqualTo(MoverFixture.first(6));
      assertThat(saved.bytes()).isEqualTo(6 * MoverFixture.PART);
      assertThat(saved.drained()).isTrue();
      byte[][] images = new byte[blocks.length][];
      for (int i = 0; i < blocks.length; i++) {
        images[i] = f.blockInEngine(blocks[i]);
        assertThat(f.blockInHost(blocks[i])).isEqualTo(images[i]);
      }
      f.fillEngine(2);
      byte[] untouched = f.blockInEngine(1);
      assertThat(f.mover.submit(f.job(2, Direction.LOAD, blocks))).isTrue();
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
      for (int i = 0; i < blocks.length; i++) {
        assertThat(f.blockInEngine(blocks[i])).isEqualTo(images[i]);
      }
      assertThat(f.blockInEngine(1)).isEqualTo(untouched);
      assertThat(f.mover.counters().load().bytes()).isEqualTo(6 * MoverFixture.PART);
      assertThat(f.mover.counters().save().jobsOk()).isEqualTo(1);
    }
  }

  @Test
  void submit_blockLongerThanASlice_isSplitAndWhole() throws Exception {
    try (MoverFixture f =
        new MoverFixture(256, device -> device.limits = new SliceLimits(4, 100, 3))) {
      f.fillEngine(3);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 9, 3))).isTrue();
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
      assertThat(f.blockInHost(9)).isEqualTo(f.blockInEngine(9));
      assertThat(f.blockInHost(3)).isEqualTo(f.blockInEngine(3));
      assertThat(f.device.ended).allMatch(slice -> slice.bytes() <= 100);
    }
  }

  @Test
  void stages_ofTheLastGoodJob_areWhatHappenedInItsOrder() throws Exception {
    try (MoverFixture f = MoverFixture.held(new SliceLimits(2, 1024, 1))) {
      assertThat(f.mover.counters().load().last()).isEqualTo(JobStages.NONE);
      assertThat(f.mover.submit(f.job(1, Direction.LOAD, new FencePoint(1, 3), null, 4, 5, 6)))
          .isTrue();
      Thread.sleep(5);
      long fence = System.nanoTime();
      f.device.completeEvents.add(1);
      MoverFixture.await("the first slice is on its way", () -> f.device.submitted.get() == 1);
      long firstMayEnd = System.nanoTime();
      f.device.mayEnd.release(1000);
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
      long ended = System.nanoTime();
      JobStages stages = f.mover.counters().load().last();
      assertThat(stages.jobId()).isEqualTo(1);
      assertThat(stages.arrived()).isLessThan(fence);
      assertThat(stages.fenceReached()).isBetween(fence, stages.firstSlice());
      assertThat(stages.firstSlice()).isLessThan(firstMayEnd);
      assertThat(stages.lastSlice()).isBetween(firstMayEnd, stages.ended());
      assertThat(stages.ended()).isLessThan(ended);
      assertThat(f.mover.counters().save().last()).isEqualTo(JobStages.NONE);
      assertThat(f.mover.submit(f.job(2, Direction.LOAD, 64))).isTrue();
      assertThat(f.next().status()).isEqualTo(Completion.Status.FAILED);
      assertThat(f.mover.counters().load().last()).as("a failed job").isEqualTo(stages);
    }
  }

  @Test
  void submit_noBlocks_isOkAtOnce() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      assertThat(f.mover.submit(f.job(1, Direction.LOAD))).isTrue();
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
    }
  }

  @Test
  void completion_onlyAfterTheLastCopyHasEnded() throws Exception {
    try (MoverFixture f = new MoverFixture(256, device -> device.held = true)) {
      f.fillEngine(5);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 1, 2, 3, 4, 5, 6))).isTrue();
      f.device.mayEnd.release(1);
      MoverFixture.await("the first slice ended", () -> f.device.ended.size() == 1);
      Thread.sleep(20); // time to report too early, if it does
      assertThat(f.completions.poll()).isNull();
      f.device.mayEnd.release(100);
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
    }
  }

  @Test
  void fence_reached_jobRunsAndTheWorkerIsToldOnce() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      f.fillEngine(7);
      for (int id = 1; id <= 3; id++) {
        assertThat(f.mover.submit(f.job(id, Direction.SAVE, new FencePoint(2, 9), null, id)))
            .isTrue();
      }
      Thread.sleep(20); // time to copy too early, if it does
      assertThat(f.device.ended).isEmpty();
      f.device.completeEvents.add(2);
      for (int id = 1; id <= 3; id++) {
        assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
      }
      assertThat(f.fencesSeen).hasSize(1);
      f.device.completeEvents.remove(2); // recorded anew, for a later point
      assertThat(f.mover.submit(f.job(4, Direction.SAVE, new FencePoint(2, 9), null, 4))).isTrue();
      assertThat(f.next().status())
          .as("a fence once seen stays seen")
          .isEqualTo(Completion.Status.OK);
    }
  }

  @Test
  void save_generationChangedDuringTheCopy_onlyThatBlockIsNotOk() throws Exception {
    AtomicLongArray table = new AtomicLongArray(MoverFixture.BLOCKS);
    long[] expected = {0, 0, 0, 0};
    try (MoverFixture f = new MoverFixture()) {
      f.fillEngine(8);
      f.device.beforeCopy = () -> table.set(22, 1);
      GenerationCheck check = new GenerationCheck(table::get, expected);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, null, check, 20, 21, 22, 23))).isTrue();
      Completion saved = f.next();
      assertThat(saved.status()).isEqualTo(Completion.Status.OK);
      BitSet wanted = MoverFixture.first(4);
      wanted.clear(2);
      assertThat(saved.blocksOk()).isEqualTo(wanted);
    }
  }

  @Test
  void save_generationTableUnmapped_noBlockIsOk() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      GenerationCheck check =
          new GenerationCheck(
              block -> {
                throw new IllegalStateException("unmapped");
              },
              new long[1]);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, null, check, 20))).isTrue();
      assertThat(f.next().blocksOk().isEmpty()).isTrue();
    }
  }

  @Test
  void submit_completionQueueFull_refusedAndLaterAcceptedAgain() throws Exception {
    try (MoverFixture f = new MoverFixture(2, device -> {})) {
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 0))).isTrue();
      assertThat(f.mover.submit(f.job(2, Direction.LOAD, 0))).isTrue();
      assertThat(f.mover.submit(f.job(3, Direction.SAVE, 0))).isFalse();
      f.next();
      assertThat(f.mover.submit(f.job(4, Direction.SAVE, 0))).isTrue();
      f.next();
      f.next();
    }
  }

  @Test
  void load_blocksComeWhileItRuns_eachIsCopiedOnlyWhenItIsThere() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      f.fillEngine(1);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 4, 5, 6, 7))).isTrue();
      f.next();
      byte[][] saved = {f.blockInEngine(4), f.blockInEngine(5), f.blockInEngine(6)};
      f.fillEngine(2);
      byte[] before = f.blockInEngine(6);
      GrowingBlocks blocks = new GrowingBlocks(1);
      assertThat(f.mover.submit(f.job(2, blocks.available(), 4, 5, 6))).isTrue();
      MoverFixture.await("the first", () -> Arrays.equals(f.blockInEngine(4), saved[0]));
      blocks.raiseTo(2);
      MoverFixture.await("the second", () -> Arrays.equals(f.blockInEngine(5), saved[1]));
      assertThat(f.blockInEngine(6)).as("it is not there").isEqualTo(before);
      assertThat(f.completions.poll()).as("it waits").isNull();
      blocks.raiseTo(3);
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
      assertThat(f.blockInEngine(6)).isEqualTo(saved[2]);
    }
  }

  @Test
  void manyJobs_randomBlocks_everyOneCompletesOnceAndBytesAreRight() throws Exception {
    java.util.Random random = new java.util.Random(11);
    try (MoverFixture f = new MoverFixture(512, device -> {})) {
      f.fillEngine(12);
      int jobs = 300;
      for (int id = 1; id <= jobs; id++) {
        int[] blocks = random.ints(0, 64).distinct().limit(1 + random.nextInt(20)).toArray();
        assertThat(f.mover.submit(f.job(id, Direction.SAVE, blocks))).isTrue();
      }
      BitSet seen = new BitSet();
      for (int i = 0; i < jobs; i++) {
        Completion done = f.next();
        assertThat(done.status()).isEqualTo(Completion.Status.OK);
        assertThat(seen.get((int) done.jobId())).as("job %d twice", done.jobId()).isFalse();
        seen.set((int) done.jobId());
      }
      for (int block = 0; block < 64; block++) {
        assertThat(f.blockInHost(block)).isEqualTo(f.blockInEngine(block));
      }
    }
  }
}
