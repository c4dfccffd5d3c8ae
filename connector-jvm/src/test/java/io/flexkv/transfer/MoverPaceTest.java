package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.GrowingBlocks;
import io.flexkv.device.DeviceException;
import io.flexkv.device.Direction;
import io.flexkv.device.SliceLimits;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** How much of the device, the link and a core a mover takes, and when it rests. */
@Timeout(60)
final class MoverPaceTest {
  @Test
  void submit_nothingEnds_slicesGrowAndTheBytesOnTheirWayAreBounded() throws Exception {
    int[] blocks = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(new SliceLimits(64, 2048, 1024, 16, 4096, 0))) {
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, blocks))).isTrue();
      MoverFixture.await("three slices", () -> f.device.submitted.get() == 3);
      Thread.sleep(20); // time for a fourth, if it comes
      assertThat(f.device.submitted.get()).isEqualTo(3);
      f.device.mayEnd.release(3);
      MoverFixture.await("they ended", () -> f.device.ended.size() == 3);
      assertThat(f.device.ended).extracting(e -> e.bytes()).containsExactly(1024L, 1024L, 2048L);
      f.device.mayEnd.release(1000);
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
    }
  }

  @Test
  void submit_underALimit_aSliceWaitsForTheEndOfTheOneBefore() throws Exception {
    int[] blocks = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(new SliceLimits(64, 2048, 2))) {
      f.limits.set(0, 1L << 40);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, blocks))).isTrue();
      MoverFixture.await("a slice", () -> f.device.submitted.get() == 1);
      Thread.sleep(20); // time for a second, if it comes
      assertThat(f.device.submitted.get()).isEqualTo(1);
      f.device.mayEnd.release();
      MoverFixture.await("the next", () -> f.device.submitted.get() == 2);
      f.limits.set(0, 0);
      MoverFixture.await("all that have room", () -> f.device.submitted.get() == 3);
      f.device.mayEnd.release(1000);
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
    }
  }

  @Test
  void limit_ofOneDirection_slowsThatOneToItsRate() throws Exception {
    int[] blocks = IntStream.range(0, 64).toArray();
    try (MoverFixture f =
        new MoverFixture(256, device -> device.limits = new SliceLimits(8, 4 * 1024, 3))) {
      f.fillEngine(11);
      f.limits.set(0, 1_000_000); // 64 KiB take 65 ms, less the 2 ahead and the last slice's 4
      long begin = System.nanoTime();
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, blocks))).isTrue();
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
      assertThat(System.nanoTime() - begin).isGreaterThan(55_000_000L);
      f.limits.set(0, 1); // a load does not wait for the years that saves now would
      assertThat(f.mover.submit(f.job(2, Direction.LOAD, blocks))).isTrue();
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
    }
  }

  @Test
  void saves_whileALoadIsActive_leaveTheDeviceToIt() throws Exception {
    int[] all = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(new SliceLimits(2, 1024, 1))) {
      assertThat(f.mover.submit(f.job(1, Direction.LOAD, all))).isTrue();
      f.device.mayEnd.release(1);
      MoverFixture.await("the load runs", () -> f.device.ended.size() == 1);
      long begin = System.nanoTime();
      assertThat(f.mover.submit(f.job(2, Direction.SAVE, all))).isTrue();
      for (int i = 0; i < 63; i++) {
        f.device.mayEnd.release(1);
        Thread.sleep(1);
      }
      long pauses = (System.nanoTime() - begin) / 10_000_000 + 2;
      long saves = f.device.ended.stream().filter(e -> e.direction() == Direction.SAVE).count();
      assertThat(saves).as("at most one slice in 10 ms").isLessThanOrEqualTo(pauses);
      f.device.mayEnd.release(1000);
      assertThat(f.next().jobId()).isEqualTo(1);
      assertThat(f.next().jobId()).isEqualTo(2);
    }
  }

  private static final SliceLimits SHORT_FIRST = new SliceLimits(64, 2048, 1024, 16, 4096, 0);

  @Test
  void saves_whileALoadMoves_goInLongSlices() throws Exception {
    int[] all = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(SHORT_FIRST)) {
      assertThat(f.mover.submit(f.job(1, Direction.LOAD, all))).isTrue();
      MoverFixture.await(
          "the load has what may be on its way", () -> f.device.submitted.get() == 3);
      assertThat(f.mover.submit(f.job(2, Direction.SAVE, 0, 1, 2, 3))).isTrue();
      MoverFixture.await("a slice of the save", () -> f.device.submitted.get() == 4);
      f.device.mayEnd.release(1000);
      f.next();
      f.next();
      assertThat(f.device.ended)
          .filteredOn(e -> e.direction() == Direction.SAVE)
          .extracting(e -> e.bytes())
          .startsWith(2048L);
    }
  }

  @Test
  void saves_whileALoadWaitsForItsBlocks_goOn() throws Exception {
    int[] all = IntStream.range(0, 64).toArray();
    try (MoverFixture f = new MoverFixture(256, device -> device.limits = SHORT_FIRST)) {
      GrowingBlocks none = new GrowingBlocks(0);
      assertThat(f.mover.submit(f.job(1, none.available(), all))).isTrue();
      assertThat(f.mover.submit(f.job(3, Direction.LOAD, 0))).isTrue();
      assertThat(f.next().jobId()).as("the one before has its turn").isEqualTo(3);
      long begin = System.nanoTime();
      assertThat(f.mover.submit(f.job(2, Direction.SAVE, all))).isTrue();
      assertThat(f.next().jobId()).isEqualTo(2);
      assertThat(System.nanoTime() - begin)
          .as("32 slices with a pause before each take 320 ms")
          .isLessThan(200_000_000L);
      none.cut();
      assertThat(f.next().status()).isEqualTo(Completion.Status.FAILED);
    }
  }

  @Test
  void slices_underALimit_areLongFromTheFirstOn() throws Exception {
    try (MoverFixture f = MoverFixture.held(SHORT_FIRST)) {
      f.limits.set(0, 1L << 40);
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 0, 1, 2, 3))).isTrue();
      f.device.mayEnd.release(1000);
      assertThat(f.next().status()).isEqualTo(Completion.Status.OK);
      assertThat(f.device.ended).extracting(e -> e.bytes()).containsExactly(2048L, 2048L);
    }
  }

  private static CopyAgent agent(MoverFixture f, CompletionQueue ends, AtomicLong now)
      throws DeviceException {
    return new CopyAgent(
        "test",
        Direction.LOAD,
        new Geometry(f.device),
        f.device.openStream(Direction.LOAD),
        f.fences,
        ends,
        new AtomicBoolean(),
        now::get,
        0,
        f.limits,
        4);
  }

  private static void closeOnceAJobEnds(CopyAgent agent, CompletionQueue ends) {
    MoverFixture.await(
        "its end",
        () -> {
          agent.doWork();
          return ends.poll() != null;
        });
    agent.onClose();
  }

  @Test
  void idle_whileALoadIsExpected_noRest() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      AtomicLong now = new AtomicLong(5);
      CopyAgent agent = agent(f, f.completions, now);
      assertThat(agent.idle()).isEqualTo(Agent.Idle.WAIT);
      agent.expect(1000);
      assertThat(agent.idle()).isEqualTo(Agent.Idle.NOT_AT_ALL);
      now.set(1005);
      assertThat(agent.idle()).isEqualTo(Agent.Idle.WAIT);
      agent.onClose();
    }
  }

  @Test
  void lastSliceOfALoadOnItsWay_isAnnouncedAndNotRestedOn_forAWhile() throws Exception {
    try (MoverFixture f = MoverFixture.held(new SliceLimits(64, 2048, 1))) {
      AtomicLong now = new AtomicLong(5);
      AtomicInteger announced = new AtomicInteger();
      CompletionQueue ends = new CompletionQueue(4, () -> {}, announced::incrementAndGet);
      CopyAgent agent = agent(f, ends, now);
      assertThat(agent.offer(f.job(1, Direction.LOAD, 0, 1, 2))).isTrue();
      agent.doWork();
      assertThat(agent.idle()).as("two blocks of three").isEqualTo(Agent.Idle.SOON);
      assertThat(ends.takeAnnounced()).isFalse();
      f.device.mayEnd.release();
      MoverFixture.await(
          "the last slice",
          () -> {
            agent.doWork();
            return f.device.submitted.get() == 2;
          });
      assertThat(announced).hasValue(1);
      assertThat(ends.takeAnnounced()).isTrue();
      assertThat(ends.takeAnnounced()).as("told once").isFalse();
      assertThat(agent.idle()).isEqualTo(Agent.Idle.NOT_AT_ALL);
      now.addAndGet(2_000_001);
      assertThat(agent.idle()).as("it hangs").isEqualTo(Agent.Idle.SOON);
      f.device.mayEnd.release();
      closeOnceAJobEnds(agent, ends);
    }
  }

  @Test
  void slicesThatTakeTheDeviceLong_fewAreOnTheirWay() throws Exception {
    int[] all = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(new SliceLimits(64, 2048, 8))) {
      AtomicLong now = new AtomicLong(5);
      CopyAgent agent = agent(f, f.completions, now);
      assertThat(agent.offer(f.job(1, Direction.LOAD, all))).isTrue();
      agent.doWork();
      assertThat(f.device.submitted).as("nothing is known yet").hasValue(8);
      now.addAndGet(6_000_000); // 2 KiB in a millisecond
      f.device.mayEnd.release(6);
      agent.doWork();
      assertThat(f.device.submitted).as("two milliseconds, but three slices").hasValue(8 + 1);
      for (int slices = 9; slices < 30 && f.device.submitted.get() < f.device.ended.size() + 8; ) {
        now.addAndGet(1_000);
        f.device.mayEnd.release();
        agent.doWork();
        slices = f.device.submitted.get();
      }
      assertThat(f.device.submitted.get() - f.device.ended.size())
          .as("it is fast again: as many as there is room for")
          .isEqualTo(8);
      f.device.mayEnd.release(1000);
      closeOnceAJobEnds(agent, f.completions);
    }
  }

  @Test
  void slicesThatTakeTheDeviceLong_areShort() throws Exception {
    int[] all = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(new SliceLimits(64, 4096, 1024, 4, 1 << 20, 0))) {
      AtomicLong now = new AtomicLong(5);
      CopyAgent agent = agent(f, f.completions, now);
      assertThat(agent.offer(f.job(1, Direction.LOAD, all))).isTrue();
      agent.doWork();
      now.addAndGet(4_000_000); // a kibibyte in a millisecond
      f.device.mayEnd.release(3);
      agent.doWork();
      assertThat(f.device.submitted).hasValue(4 + 2);
      f.device.mayEnd.release(1000);
      closeOnceAJobEnds(agent, f.completions);
      assertThat(f.device.ended.subList(0, 6))
          .extracting(e -> e.bytes())
          .containsExactly(1024L, 1024L, 2048L, 4096L, 1024L, 1024L);
    }
  }

  @Test
  void thread_comesLateToASwiftDevice_doesNotTakeItForSlow() throws Exception {
    int[] all = IntStream.range(0, 64).toArray();
    try (MoverFixture f = MoverFixture.held(new SliceLimits(64, 2048, 4))) {
      AtomicLong now = new AtomicLong(5);
      CopyAgent agent = agent(f, f.completions, now);
      assertThat(agent.offer(f.job(1, Direction.LOAD, all))).isTrue();
      agent.doWork();
      now.addAndGet(3_000_000);
      f.device.mayEnd.release(1);
      agent.doWork(); // a look that finds three on their way: a slow device, so it seems
      for (int ended = 1; ended < 16; ) {
        now.addAndGet(4_000_000);
        int onTheirWay = f.device.submitted.get() - ended;
        ended += onTheirWay;
        f.device.mayEnd.release(onTheirWay);
        agent.doWork();
      }
      assertThat(f.device.submitted.get() - f.device.ended.size()).isEqualTo(4);
      f.device.mayEnd.release(1000);
      closeOnceAJobEnds(agent, f.completions);
    }
  }

  private static long moverThreads() {
    return Thread.getAllStackTraces().keySet().stream()
        .filter(thread -> thread.getName().matches("flexkv-(load|save)-test"))
        .filter(thread -> thread.getState() == Thread.State.WAITING)
        .count();
  }

  @Test
  void idle_noJobs_usesNoCpu() throws Exception {
    try (MoverFixture f = new MoverFixture()) {
      assertThat(f.mover.submit(f.job(1, Direction.SAVE, 0))).isTrue();
      f.next();
      MoverFixture.await("both threads wait", () -> moverThreads() == 2);
    }
  }
}
