package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import io.flexkv.device.ProcessEngine;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The mover over another process's memory: its end, and ours, in the middle of copies. */
@Timeout(60)
final class MoverProcessTest {
  private static final int BLOCKS = 256;
  private static final int BLOCK_BYTES = 256 << 10;
  private static final int JOBS = 40;

  private final Semaphore posted = new Semaphore(0);
  private final CompletionQueue completions = new CompletionQueue(256, posted::release);

  private static int[] allBlocks() {
    return java.util.stream.IntStream.range(0, BLOCKS).toArray();
  }

  private static long[] hosts(MemorySegment host) {
    long[] hosts = new long[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
      hosts[i] = host.address() + (long) (BLOCKS - 1 - i) * BLOCK_BYTES;
    }
    return hosts;
  }

  private static RankLayout layout(ProcessEngine engine) throws Exception {
    return RankLayout.of(
        engine.allocations(), List.of(new Region(0, 0, BLOCK_BYTES, BLOCK_BYTES, BLOCKS)), "test");
  }

  private void submit(Mover mover, MemorySegment host) {
    for (int id = 1; id <= JOBS; id++) {
      TransferJob job =
          new TransferJob(
              id,
              0,
              id % 2 == 0 ? Direction.LOAD : Direction.SAVE,
              allBlocks(),
              hosts(host),
              null,
              RevokeWord.NONE,
              System.nanoTime() + 60_000_000_000L,
              null);
      assertThat(mover.submit(job)).isTrue();
    }
  }

  @Test
  void engineKilledInMidCopy_everyJobEndsAtOnceAsFailedOrOk() throws Exception {
    try (ProcessEngine engine = new ProcessEngine((long) BLOCKS * BLOCK_BYTES);
        Arena arena = Arena.ofShared();
        DeviceMemory memory = engine.open(layout(engine))) {
      MemorySegment host = arena.allocate((long) BLOCKS * BLOCK_BYTES, 4096);
      Mover mover = Mover.start("test", memory, FenceRing.none(), completions, new MoveLimits());
      submit(mover, host);
      assertThat(posted.tryAcquire(30, TimeUnit.SECONDS)).as("the first job").isTrue();
      long killed = System.nanoTime();
      engine.kill();
      assertThat(posted.tryAcquire(JOBS - 1, 10, TimeUnit.SECONDS)).as("all others").isTrue();
      assertThat(System.nanoTime() - killed).isLessThan(5_000_000_000L);
      int failed = 0;
      for (int i = 0; i < JOBS; i++) {
        Completion done = Objects.requireNonNull(completions.poll());
        if (done.status() == Completion.Status.FAILED) {
          failed++;
          assertThat(done.cause()).containsAnyOf("has ended", "ESRCH", "EFAULT");
        }
      }
      assertThat(failed).isPositive();
      assertThat(mover.stop(5_000_000_000L)).isTrue();
    }
  }

  @Test
  void stop_inMidCopy_nothingTouchesMemoryAfterwards() throws Exception {
    try (ProcessEngine engine = new ProcessEngine((long) BLOCKS * BLOCK_BYTES);
        Arena arena = Arena.ofShared();
        DeviceMemory memory = engine.open(layout(engine))) {
      MemorySegment host = arena.allocate((long) BLOCKS * BLOCK_BYTES, 4096);
      host.fill((byte) 1);
      Mover mover = Mover.start("test", memory, FenceRing.none(), completions, new MoveLimits());
      submit(mover, host);
      assertThat(posted.tryAcquire(30, TimeUnit.SECONDS)).as("the first job").isTrue();
      assertThat(mover.stop(5_000_000_000L)).isTrue();
      assertThat(posted.tryAcquire(JOBS - 1, 1, TimeUnit.SECONDS)).as("all others").isTrue();
      byte[] zeros = new byte[1 << 20];
      for (int at = 0; at < BLOCKS * BLOCK_BYTES; at += zeros.length) {
        engine.poke(0, at, zeros);
      }
      host.fill((byte) 2);
      Thread.sleep(50); // time for a late copy, if there is one
      assertThat(
              MemorySegment.ofArray(engine.peek(0, 0, BLOCKS * BLOCK_BYTES))
                  .mismatch(MemorySegment.ofArray(new byte[BLOCKS * BLOCK_BYTES])))
          .isEqualTo(-1);
      byte[] mine = new byte[1 << 20];
      java.util.Arrays.fill(mine, (byte) 2);
      assertThat(host.asSlice(0, mine.length).mismatch(MemorySegment.ofArray(mine))).isEqualTo(-1);
    }
  }
}
