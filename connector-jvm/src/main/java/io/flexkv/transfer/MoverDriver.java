package io.flexkv.transfer;

import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import java.util.Arrays;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;

/** Drives a {@link Mover} as the cache does, and waits: for benches and self tests. */
final class MoverDriver implements AutoCloseable {
  private static final long TIMEOUT_NANOS = 60_000_000_000L;

  private final Semaphore posted = new Semaphore(0);
  private final CompletionQueue completions = new CompletionQueue(1024, posted::release);
  private final Mover mover;
  private long nextJob = 1;

  MoverDriver(DeviceMemory memory) throws DeviceException {
    this(memory, SliceBudget.SAVE_PAUSE_NANOS);
  }

  /**
   * @param savePauseNanos how long saves rest between slices while loads move
   */
  MoverDriver(DeviceMemory memory, long savePauseNanos) throws DeviceException {
    this.mover =
        Mover.start(
            "bench",
            memory,
            FenceRing.none(),
            completions,
            System::nanoTime,
            savePauseNanos,
            new MoveLimits());
  }

  /** Blocks and where they lie on the host. */
  @SuppressWarnings("ArrayRecordComponent") // made for one copy and never changed
  record Blocks(int[] blocks, long[] hosts) {
    Blocks from(int from, int to) {
      return new Blocks(Arrays.copyOfRange(blocks, from, to), Arrays.copyOfRange(hosts, from, to));
    }
  }

  /**
   * Copies blocks, all jobs in the mover at once, and waits for them.
   *
   * @return nanoseconds from the first submit to the last completion
   */
  long copy(Direction direction, int[] blocks, long[] hosts, int blocksPerJob)
      throws DeviceException {
    Blocks all = new Blocks(blocks, hosts);
    long begin = System.nanoTime();
    int jobs = 0;
    for (int from = 0; from < blocks.length; from += blocksPerJob) {
      submit(direction, all.from(from, Math.min(blocks.length, from + blocksPerJob)));
      jobs++;
    }
    for (int i = 0; i < jobs; i++) {
      await();
    }
    return System.nanoTime() - begin;
  }

  /** Jobs both ways at once; nanoseconds until all have ended. */
  long copyBothWays(Blocks load, Blocks save, int blocksPerJob) throws DeviceException {
    long begin = System.nanoTime();
    int jobs = 0;
    for (int from = 0; from < load.blocks().length; from += blocksPerJob) {
      int to = Math.min(load.blocks().length, from + blocksPerJob);
      submit(Direction.LOAD, load.from(from, to));
      submit(Direction.SAVE, save.from(from, to));
      jobs += 2;
    }
    for (int i = 0; i < jobs; i++) {
      await();
    }
    return System.nanoTime() - begin;
  }

  /** A load beside a save; nanoseconds until the load has ended. Waits for both. */
  long loadBesideSave(Blocks load, Blocks save) throws DeviceException {
    long begin = System.nanoTime();
    submit(Direction.SAVE, save);
    submit(Direction.LOAD, load);
    long ended = 0;
    for (int i = 0; i < 2; i++) {
      if (await().direction() == Direction.LOAD) {
        ended = System.nanoTime();
      }
    }
    return ended - begin;
  }

  private void submit(Direction direction, Blocks blocks) throws DeviceException {
    TransferJob job =
        new TransferJob(
            nextJob++,
            0,
            direction,
            blocks.blocks(),
            blocks.hosts(),
            null,
            RevokeWord.NONE,
            System.nanoTime() + TIMEOUT_NANOS,
            null);
    if (!mover.submit(job)) {
      throw new DeviceException(DeviceException.Kind.COPY, "bench: the mover has no room");
    }
  }

  private Completion await() throws DeviceException {
    Completion completion = null;
    long begin = System.nanoTime();
    try {
      boolean came = posted.tryAcquire(TIMEOUT_NANOS, TimeUnit.NANOSECONDS);
      // The one before it in the queue may be claimed by the other direction and not there yet.
      while (came && completion == null && System.nanoTime() - begin < TIMEOUT_NANOS) {
        completion = completions.poll();
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    if (completion == null || completion.status() != Completion.Status.OK) {
      throw new DeviceException(DeviceException.Kind.COPY, "bench: a job ended as " + completion);
    }
    return completion;
  }

  @Override
  public void close() {
    if (!mover.stop(TIMEOUT_NANOS)) {
      throw new IllegalStateException("bench: the device did not end its copies");
    }
  }
}
