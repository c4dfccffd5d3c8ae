package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.GrowingBlocks;
import io.flexkv.device.Direction;
import io.flexkv.device.SliceLimits;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Jobs that fail, each with its reason, and what of the others goes on. */
@Timeout(60)
final class MoverFailureTest {
  @Test
  void submit_blockThatTheLayoutDoesNotHave_failsWithBothNumbers() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      TransferJob job =
          new TransferJob(
              3,
              0,
              Direction.LOAD,
              new int[] {1, 64},
              new long[] {f.slot(0), f.slot(1)},
              null,
              RevokeWord.NONE,
              System.nanoTime() + MoverFixture.SECOND,
              null);
      f.fillEngine(4);
      byte[] before = f.blockInEngine(1);
      assertThat(f.mover.submit(job)).isTrue();
      Completion failed = f.next();
      assertThat(failed.status()).isEqualTo(Completion.Status.FAILED);
      assertThat(failed.cause()).contains("block 64").contains("0 to 63");
      assertThat(failed.blocksOk().isEmpty()).isTrue();
      assertThat(f.blockInEngine(1)).as("nothing was copied").isEqualTo(before);
    }
  }

  @Test
  void fence_neverReached_otherJobsPassAndItEndsAtItsDeadline() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      f.fillEngine(6);
      TransferJob stuck = f.job(1, Direction.LOAD, new FencePoint(0, 4), null, 1);
      TransferJob withDeadline =
          new TransferJob(
              2,
              7,
              Direction.LOAD,
              new int[] {2},
              new long[] {f.slot(2)},
              new FencePoint(0, 4),
              RevokeWord.NONE,
              System.nanoTime() + MoverFixture.SECOND / 5,
              null);
      assertThat(f.mover.submit(stuck)).isTrue();
      assertThat(f.mover.submit(withDeadline)).isTrue();
      for (int id = 10; id < 20; id++) {
        assertThat(f.mover.submit(f.job(id, Direction.LOAD, id))).isTrue();
      }
      for (int id = 10; id < 20; id++) {
        assertThat(f.next().jobId()).isEqualTo(id);
      }
      Completion late = f.next();
      assertThat(late.jobId()).isEqualTo(2);
      assertThat(late.status()).isEqualTo(Completion.Status.FAILED);
      assertThat(late.cause()).contains("deadline");
      assertThat(f.fencesSeen).isEmpty();

      f.revokeByWord(1);
      Completion revoked = f.next();
      assertThat(revoked.jobId()).isEqualTo(1);
      assertThat(revoked.status()).isEqualTo(Completion.Status.REVOKED);
      assertThat(revoked.bytes()).isZero();

      f.device.completeEvents.add(0);
      MoverFixture.await("an abandoned fence is seen too", () -> !f.fencesSeen.isEmpty());
      assertThat(f.fencesSeen.getFirst()).containsExactly(0, 4);
    }
  }

  @Test
  void load_restOfItsBlocksDoesNotCome_failsWithWhatCame() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      GrowingBlocks blocks = new GrowingBlocks(2);
      assertThat(f.mover.submit(f.job(1, blocks.available(), 4, 5, 6))).isTrue();
      blocks.cut();
      Completion done = f.next();
      assertThat(done.status()).isEqualTo(Completion.Status.FAILED);
      assertThat(done.blocksOk()).isEqualTo(MoverFixture.first(2));
      assertThat(done.cause()).contains("could not be read");
    }
  }

  @Test
  void submit_copyFails_onlyThatJobFailsAfterItsOtherSlicesEnded() throws Exception {
    try (MoverFixture f =
        new MoverFixture(
            256,
            device -> {
              device.limits = new SliceLimits(2, 1024, 2);
              device.failSubmit.set(3);
            })) {
      f.fillEngine(9);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 0, 1, 2, 3, 4))).isTrue();
      assertThat(f.mover.submit(f.job(2, Direction.SAVE, 5))).isTrue();
      Completion failed = f.next();
      assertThat(failed.jobId()).isEqualTo(1);
      assertThat(failed.status()).isEqualTo(Completion.Status.FAILED);
      assertThat(failed.cause()).contains("told to fail");
      assertThat(failed.blocksOk()).isEqualTo(MoverFixture.first(2));
      Completion ok = f.next();
      assertThat(ok.jobId()).isEqualTo(2);
      assertThat(ok.status()).isEqualTo(Completion.Status.OK);
    }
  }

  private static String causeOf(MoverFixture f, long job, Direction direction) throws Exception {
    assertThat(f.mover.submit(f.job(job, direction, 0))).isTrue();
    Completion done = f.next();
    assertThat(done.jobId()).isEqualTo(job);
    return done.status() == Completion.Status.OK ? "" : String.valueOf(done.cause());
  }

  @Test
  void submit_copiesFailInARow_theMoverFailsForGoodWithTheThird() throws Exception {
    try (MoverFixture f = new MoverFixture(256, device -> device.refusesCopies = true)) {
      assertThat(causeOf(f, 1, Direction.SAVE)).contains("not permitted");
      assertThat(causeOf(f, 2, Direction.SAVE)).contains("not permitted");
      assertThat(f.mover.failed()).isNull();
      assertThat(causeOf(f, 3, Direction.SAVE)).contains("not permitted");
      assertThat(f.mover.failed()).contains("3 copies in a row").contains("not permitted");
      f.device.refusesCopies = false;
      assertThat(causeOf(f, 4, Direction.SAVE)).contains("3 copies in a row");
    }
  }

  @Test
  void submit_copiesFailWithOthersThatSucceedBetween_theMoverGoesOn() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      for (int job = 1; job <= 9; job++) {
        boolean fails = job % 3 != 0;
        f.device.refusesCopies = fails;
        assertThat(causeOf(f, job, Direction.LOAD).isEmpty()).isEqualTo(!fails);
      }
      assertThat(f.mover.failed()).isNull();
    }
  }

  @Test
  void deviceGone_everyJobFailsAtOnceThoseThatComeLaterToo() throws Exception {
    try (MoverFixture f = new MoverFixture(256, device -> device.held = true)) {
      assertThat(f.mover.submit(f.job(1, Direction.LOAD, 0, 1, 2, 3, 4, 5))).isTrue();
      assertThat(f.mover.submit(f.job(2, Direction.LOAD, new FencePoint(0, 1), null, 6))).isTrue();
      f.device.gone = true;
      assertThat(f.next().status()).isEqualTo(Completion.Status.FAILED);
      assertThat(f.next().status()).isEqualTo(Completion.Status.FAILED);
      assertThat(f.mover.submit(f.job(3, Direction.LOAD, 0))).isTrue();
      Completion later = f.next();
      assertThat(later.status()).isEqualTo(Completion.Status.FAILED);
      assertThat(later.cause()).contains("gone");
    }
  }

  @Test
  void internalError_jobsEndAsFailedAndThoseOnTheirWayAsNotDrained() throws Exception {
    MoverFixture f = new MoverFixture(256, device -> device.held = true);
    f.failWhenSeen = true;
    assertThat(f.mover.submit(f.job(1, Direction.SAVE, 1))).isTrue();
    MoverFixture.await("its slice is on its way", () -> f.device.submitted.get() == 1);
    f.device.completeEvents.add(0);
    assertThat(f.mover.submit(f.job(2, Direction.SAVE, new FencePoint(0, 1), null, 2))).isTrue();
    Completion first = f.next();
    Completion second = f.next();
    Completion running = first.jobId() == 1 ? first : second;
    assertThat(running.drained()).isFalse();
    assertThat(running.status()).isEqualTo(Completion.Status.FAILED);
    Completion other = first.jobId() == 2 ? first : second;
    assertThat(other.status()).isEqualTo(Completion.Status.FAILED);
    assertThat(other.cause()).contains("internal error").contains("seen word");
    assertThat(f.mover.submit(f.job(3, Direction.SAVE, 3))).isTrue();
    assertThat(f.next().status()).isEqualTo(Completion.Status.FAILED);
    assertThat(f.mover.stop(MoverFixture.SECOND)).as("not drained").isFalse();
    f.engine.close();
    f.arena.close();
  }
}
