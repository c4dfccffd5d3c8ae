package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.Direction;
import io.flexkv.device.SliceLimits;
import java.util.ArrayDeque;
import java.util.Random;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A mover's budget on a clock of the test's own, before a device that is a queue. */
final class SliceBudgetTest {
  private static final long MIB = 1 << 20;

  /** As a CUDA stream's. */
  private static final SliceLimits LIMITS =
      new SliceLimits(512, 16 * MIB, MIB, 16, 96 * MIB, 16 << 10);

  private final AtomicLong now = new AtomicLong();
  private final SlicesInFlight inFlight = new SlicesInFlight(new AgentCounters(), now::get);
  private final AtomicBoolean loadsMove = new AtomicBoolean();
  private final MoveLimits limits = new MoveLimits();
  private final SliceBudget budget =
      new SliceBudget(
          LIMITS,
          inFlight,
          new Pace(limits, Direction.SAVE),
          loadsMove::get,
          SliceBudget.SAVE_PAUSE_NANOS,
          () -> true,
          now::get);
  private final JobState job =
      new JobState(
          new TransferJob(
              1, 0, Direction.SAVE, new int[0], new long[0], null, RevokeWord.NONE, 1, null),
          0);

  /**
   * Copies slices in turn.
   *
   * @param bytesPerNano of the device
   * @param perSlice nanoseconds that each takes beside
   * @param late whether the end of one shows only with that of the next, as with strided copies
   */
  private record Device(double bytesPerNano, long perSlice, boolean late) {}

  private final ArrayDeque<Long> ends = new ArrayDeque<>();
  private long lastEnd;
  private long ended;
  private long longestWait;

  /** Bytes a nanosecond of this many, by a thread that looks at these intervals. */
  private double move(Device device, long bytes, long lookNanos, Random random) {
    long begin = now.get();
    long moved = 0;
    while (moved < bytes) {
      look(device);
      while (budget.mayCopy()) {
        long length = budget.bytesOfNext();
        budget.submitting();
        long start = Math.max(now.get(), lastEnd);
        lastEnd = start + device.perSlice() + (long) (length / device.bytesPerNano());
        longestWait = Math.max(longestWait, lastEnd - now.get());
        ends.add(lastEnd);
        budget.submitted(job, length);
        moved += length;
        now.addAndGet(20_000 * length / (16 * MIB)); // the driver's call
      }
      now.addAndGet(lookNanos / 2 + random.nextLong(lookNanos + 1));
    }
    return (double) moved / (Math.max(now.get(), lastEnd) - begin);
  }

  private void look(Device device) {
    while (!ends.isEmpty() && firstShowsAt(device) <= now.get()) {
      ends.remove();
      ended++;
    }
    budget.endUpTo(ended);
  }

  private long firstShowsAt(Device device) {
    int by = device.late() && ends.size() > 1 ? 1 : 0;
    return ends.stream().skip(by).findFirst().orElseThrow();
  }

  @ParameterizedTest
  @CsvSource({
    "50, 5000, false, 20000", // wide rows
    "50, 5000, false, 200000",
    "50, 5000, true, 20000",
    "40, 5000, true, 100000",
    "25, 5000, true, 20000", // rows of 4 KiB in 32 layers
    "25, 5000, true, 150000",
    "5, 5000, false, 20000", // rows one by one, by the driver's time
    "5, 5000, false, 300000",
    "400, 500, false, 20000", // a link of the future
  })
  void mover_beforeADevice_leavesItNoRest(
      double bytesPerNano, long perSlice, boolean late, long lookNanos) {
    Device device = new Device(bytesPerNano, perSlice, late);
    Random random = new Random(7);
    move(device, 256 * MIB, lookNanos, random); // it learns
    longestWait = 0;
    assertThat(move(device, 2048 * MIB, lookNanos, random))
        .as("of %s bytes a nanosecond", bytesPerNano)
        .isGreaterThan(0.93 * Math.min(bytesPerNano, 96.0 * MIB / (2 * lookNanos)));
    assertThat(longestWait)
        .as("what a revoked load waits for")
        .isLessThan(3_500_000L + (long) (LIMITS.firstBytes() / bytesPerNano));
  }

  @ParameterizedTest
  @CsvSource({"5, 1627", "20, 6510", "100, 16384"})
  void slice_ofADevice_takesASixthOfWhatMayBeOnItsWay(double bytesPerNano, long mostKib) {
    move(new Device(bytesPerNano, 0, false), 512 * MIB, 20_000, new Random(7));
    assertThat(budget.bytesOfNext()).isBetween(mostKib * 900, mostKib << 10);
    assertThat(budget.bytesOfNext() % (64 << 10)).isZero();
  }

  @Test
  void mover_afterATimeOfSlowCopies_isFastAgain() {
    Random random = new Random(7);
    move(new Device(1, 5000, true), 64 * MIB, 20_000, random);
    Device fast = new Device(50, 5000, true);
    move(fast, 256 * MIB, 20_000, random);
    assertThat(move(fast, 1024 * MIB, 20_000, random)).isGreaterThan(45);
  }

  @Test
  void saves_whileLoadsMove_comeAtIntervals() {
    loadsMove.set(true);
    assertThat(move(new Device(50, 5000, false), 512 * MIB, 20_000, new Random(7)))
        .isBetween(14.0, 17.0);
  }

  @Test
  void limit_ofHalfTheLink_isKept() {
    limits.set(0, 20_000_000_000L);
    assertThat(move(new Device(50, 5000, false), 1024 * MIB, 20_000, new Random(7)))
        .isBetween(18.0, 21.0);
  }
}
