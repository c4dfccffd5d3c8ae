package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.GrowingBlocks;
import io.flexkv.device.Direction;
import io.flexkv.device.SliceLimits;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Jobs that are revoked, and a mover that stops: what is on its way is drained first. */
@Timeout(60)
final class MoverStopTest {
  @Test
  void revokeWord_betweenSlices_noFurtherSliceIsSubmitted() throws Exception {
    int[] blocks = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(new SliceLimits(8, 2048, 2))) {
      byte[] before = f.blockInEngine(63);
      f.host.fill((byte) 9);
      assertThat(f.mover.submit(f.job(5, Direction.LOAD, blocks))).isTrue();
      f.device.mayEnd.release(3);
      MoverFixture.await("three slices ended", () -> f.device.ended.size() == 3);
      f.revokeByWord(5);
      Thread.sleep(20);
      assertThat(f.completions.poll()).as("two slices are still on their way").isNull();
      f.device.mayEnd.release(100);
      Completion revoked = f.next();
      assertThat(revoked.status()).isEqualTo(Completion.Status.REVOKED);
      assertThat(f.device.ended).hasSizeBetween(4, 5);
      int whole = f.device.ended.size() * 2;
      assertThat(revoked.blocksOk()).isEqualTo(MoverFixture.first(whole));
      assertThat(revoked.bytes()).isEqualTo(whole * 1024L);
      assertThat(f.blockInEngine(63)).isEqualTo(before);
    }
  }

  @Test
  void revoke_byCall_endsAJobThatWaits() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      assertThat(f.mover.submit(f.job(5, Direction.SAVE, new FencePoint(1, 1), null, 3))).isTrue();
      assertThat(f.mover.revoke(99, Direction.SAVE)).as("unknown ones are left alone").isTrue();
      assertThat(f.mover.revoke(5, Direction.SAVE)).isTrue();
      Completion revoked = f.next();
      assertThat(revoked.jobId()).isEqualTo(5);
      assertThat(revoked.status()).isEqualTo(Completion.Status.REVOKED);
    }
  }

  @Test
  void load_waitsForBlocks_isRevokedAndOtherLoadsPass() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      GrowingBlocks blocks = new GrowingBlocks(0);
      assertThat(f.mover.submit(f.job(1, blocks.available(), 4, 5))).isTrue();
      assertThat(f.mover.submit(f.job(2, Direction.LOAD, 9))).isTrue();
      assertThat(f.next().jobId()).isEqualTo(2);
      f.revokeByWord(1);
      Completion done = f.next();
      assertThat(done.status()).isEqualTo(Completion.Status.REVOKED);
      assertThat(done.bytes()).isZero();
    }
  }

  @Test
  void stop_copiesOnTheirWay_areDrainedOthersFail() throws Exception {
    MoverFixture f = MoverFixture.held(new SliceLimits(64, 1 << 20, 2));
    try (f) {
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 0, 1, 2))).isTrue();
      assertThat(f.mover.submit(f.job(2, Direction.SAVE, new FencePoint(0, 1), null, 3))).isTrue();
      MoverFixture.await("the first is on its way", () -> f.device.submitted.get() == 1);
      Thread stopper = Thread.ofPlatform().start(() -> f.mover.stop(10 * MoverFixture.SECOND));
      Completion waiting = f.next();
      assertThat(waiting.jobId()).isEqualTo(2);
      assertThat(waiting.status()).isEqualTo(Completion.Status.FAILED);
      assertThat(f.mover.submit(f.job(3, Direction.SAVE, 0))).isFalse();
      f.device.mayEnd.release(10);
      Completion drained = f.next();
      assertThat(drained.jobId()).isEqualTo(1);
      assertThat(drained.status()).isEqualTo(Completion.Status.OK);
      assertThat(drained.drained()).isTrue();
      stopper.join();
    }
  }

  @Test
  void stop_deviceNeverEndsItsCopies_boundedAndReportedAsNotDrained() throws Exception {
    MoverFixture f = new MoverFixture(256, device -> device.held = true);
    assertThat(f.mover.submit(f.job(1, Direction.LOAD, 0, 1, 2))).isTrue();
    Thread.sleep(20); // let it be submitted; an earlier stop would rightly fail it as not begun
    long begin = System.nanoTime();
    assertThat(f.mover.stop(MoverFixture.SECOND / 5)).isFalse();
    assertThat(System.nanoTime() - begin).isLessThan(2 * MoverFixture.SECOND);
    Completion lost = f.next();
    assertThat(lost.drained()).isFalse();
    assertThat(lost.status()).isEqualTo(Completion.Status.FAILED);
    assertThat(f.device.openStreams.get()).as("the stuck stream is left open").isEqualTo(1);
    Thread.sleep(20);
    assertThat(f.completions.poll()).as("said to have ended while its copies run").isNull();

    f.device.mayEnd.release(10);
    Completion late = f.next();
    assertThat(late.jobId()).isEqualTo(1);
    assertThat(late.drained()).as("they have ended after all").isTrue();
    assertThat(late.status()).isEqualTo(Completion.Status.FAILED);
    assertThat(late.blocksOk().isEmpty()).isTrue();
    assertThat(f.mover.awaitDrained()).isTrue();
    assertThat(f.device.openStreams.get()).isZero();
    f.close();
  }

  private static void awaitUninterruptibly(CountDownLatch latch) {
    try {
      latch.await();
    } catch (InterruptedException e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void stop_threadComesBackFromTheDeviceTooLate_isDrainedThen() throws Exception {
    MoverFixture f = new MoverFixture();
    CountDownLatch comesBack = new CountDownLatch(1);
    CountDownLatch stuck = new CountDownLatch(1);
    f.device.beforeCopy =
        () -> {
          stuck.countDown();
          awaitUninterruptibly(comesBack);
        };
    assertThat(f.mover.submit(f.job(1, Direction.LOAD, 0, 1, 2))).isTrue();
    assertThat(stuck.await(10, TimeUnit.SECONDS)).as("the thread is in the device").isTrue();
    assertThat(f.mover.stop(1)).isFalse();
    assertThat(f.completions.poll()).isNull();
    comesBack.countDown();
    assertThat(f.mover.awaitDrained()).isTrue();
    assertThat(f.device.openStreams.get()).isZero();
    Completion done = f.next();
    assertThat(done.drained()).isTrue();
    assertThat(f.completions.poll()).as("it was reported once").isNull();
    f.close();
  }
}
