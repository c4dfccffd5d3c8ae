package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.SharedMemory;
import java.io.IOException;
import java.lang.System.Logger.Level;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.Lock;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BooleanSupplier;
import java.util.stream.Stream;

/**
 * Pins the pool while it serves, and unpins what a smaller pool has no longer: one thread, piece
 * after piece. The driver's lock is not fair: a thread that registers without pause holds up every
 * copy of the process until it is through (measured: 260–370 ms for 8 GiB). So where there were
 * copies since the last piece, they have some milliseconds, and a piece waits until no slice is on
 * its way, 20 ms at most.
 *
 * <p>A piece gets its pages first, outside that lock, if it has none yet: inside, 32 MiB of new
 * pages would hold up the copies for 20 ms. For the same reason nobody else is given pages while
 * the driver pins: it would wait in the kernel for each of them, with every copy behind it.
 *
 * <p>While other threads give the pool its pages it goes no further than the first part.
 *
 * <p>What is not pinned works too, by the driver's staging. If the driver refuses, this says so
 * once and ends.
 */
final class CudaPinner implements PoolPinner {
  private static final System.Logger LOG = System.getLogger(CudaPinner.class.getName());
  private static final long PATIENCE_NANOS = 20_000_000;
  private static final long LOOK_NANOS = 200_000;
  private static final long PAUSE_NANOS = 3_000_000;

  private final CudaGpu gpu;
  private final PinnedRanges pool;
  private final BooleanSupplier pagesAreThere;
  private final long meanwhile;
  private final Thread thread;
  private final CountDownLatch ended = new CountDownLatch(1);
  private long slicesSeen;
  private long longestNanos;
  private boolean refused;
  private boolean changed = true;
  private boolean unpinned;
  private volatile boolean stopped;

  private CudaPinner(
      CudaGpu gpu, PinnedRanges pool, BooleanSupplier pagesAreThere, long meanwhile) {
    this.gpu = gpu;
    this.pool = pool;
    this.pagesAreThere = pagesAreThere;
    this.meanwhile = meanwhile;
    this.thread = Thread.ofPlatform().daemon().name("flexkv-pin").unstarted(this::run);
  }

  /**
   * @param pagesAreThere until it is true no more than {@code meanwhile} bytes are pinned
   */
  static CudaPinner start(
      CudaGpu gpu, PinnedRanges pool, BooleanSupplier pagesAreThere, long meanwhile) {
    CudaPinner pinner = new CudaPinner(gpu, pool, pagesAreThere, meanwhile);
    pinner.thread.start();
    return pinner;
  }

  private void run() {
    try {
      gpu.makeCurrent();
      while (awaitChange()) {
        unpinBeyond();
        if (!refused) {
          pinAll();
        }
      }
    } catch (CudaCallException | DeviceException e) {
      LOG.log(
          Level.WARNING,
          "host pool: {0} MiB stay pinned as they are: {1}",
          pool.pinnedBytes() >> 20,
          e.getMessage());
    } finally {
      end();
    }
  }

  private synchronized boolean awaitChange() {
    boolean interrupted = false;
    while (!changed && !stopped) {
      try {
        wait();
      } catch (InterruptedException e) {
        interrupted = true;
      }
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
    changed = false;
    return !stopped;
  }

  private void unpinBeyond() throws CudaCallException {
    for (int i = pool.segments() - 1; i >= 0; i--) {
      int segment = i;
      while (!stopped && pool.pinnedBeyond(segment)) {
        letCopiesPass();
        betweenCopies(() -> unpinLast(segment));
      }
    }
    synchronized (this) {
      unpinned = !changed; // else the pool has become smaller still
      notifyAll();
    }
  }

  /** A piece that the driver keeps counts as pinned again: its pages must not go. */
  private void unpinLast(int segment) throws CudaCallException {
    long end = pool.pinned(segment);
    long start = pool.takeLast(segment);
    try {
      gpu.driver().hostUnregister(pool.start(segment) + start);
    } catch (CudaCallException e) {
      pool.pinnedUpTo(segment, end);
      throw e;
    }
  }

  private void pinAll() {
    long begin = System.nanoTime();
    try {
      for (int segment = 0; segment < pool.segments() && !isChanged(); segment++) {
        pin(segment);
      }
      LOG.log(
          Level.INFO,
          "host pool: {0} MiB pinned in {1} ms, the driver was busy for {2} ms at once at most",
          pool.pinnedBytes() >> 20,
          (System.nanoTime() - begin) / 1_000_000,
          longestNanos / 1_000_000);
    } catch (CudaCallException | ErrnoException e) {
      refused = true;
      LOG.log(
          Level.WARNING,
          "host pool: {0} of {1} MiB are pinned, the rest is slower: {2}; this process may lock {3}"
              + " (ulimit -l; in a container --ulimit memlock=-1, and its memory limit counts)",
          Long.toString(pool.pinnedBytes() >> 20),
          Long.toString(pool.bytes() >> 20),
          e.getMessage(),
          mayLock());
    }
  }

  private synchronized boolean isChanged() {
    return changed || stopped;
  }

  @Override
  public synchronized void resized() {
    changed = true;
    unpinned = false;
    notifyAll();
  }

  @Override
  public synchronized void awaitUnpinned() throws InterruptedException {
    while (!unpinned && ended.getCount() > 0) {
      wait();
    }
  }

  private synchronized void end() {
    ended.countDown();
    notifyAll();
  }

  /** What {@code /proc/self/limits} says of locked memory. */
  private static String mayLock() {
    try (Stream<String> lines = Files.lines(Path.of("/proc/self/limits"))) {
      return lines
          .filter(line -> line.startsWith("Max locked memory"))
          .map(line -> line.substring("Max locked memory".length()).strip().split(" +", -1))
          .map(words -> words[0] + (words[0].equals("unlimited") ? "" : " bytes"))
          .findFirst()
          .orElse("an unknown amount");
    } catch (IOException e) {
      return "an unknown amount";
    }
  }

  private void pin(int segment) throws CudaCallException, ErrnoException {
    for (long at = pool.pinned(segment); at < pool.length(segment) && !isChanged(); ) {
      if (pool.pinnedBytes() >= meanwhile && !pagesAreThere.getAsBoolean()) {
        LockSupport.parkNanos(this, PAUSE_NANOS);
        continue;
      }
      long end = pool.nextEnd(segment);
      if (end <= at) {
        return; // the pool has become smaller meanwhile
      }
      SharedMemory.populate(pool.start(segment) + at, end - at);
      long start = pool.start(segment) + at;
      long length = end - at;
      letCopiesPass();
      betweenCopies(() -> gpu.driver().hostRegister(start, length));
      pool.pinnedUpTo(segment, end);
      at = end;
    }
  }

  /** Rests for a while if there were copies since the last piece. */
  private void letCopiesPass() {
    if (gpu.traffic().count() != slicesSeen) {
      LockSupport.parkNanos(this, PAUSE_NANOS);
    }
  }

  private interface DriverCall {
    void run() throws CudaCallException;
  }

  /**
   * Makes the call as soon as no copy is on its way, after 20 ms in any case, while no thread gives
   * memory its pages.
   */
  private void betweenCopies(DriverCall call) throws CudaCallException {
    Lock noPopulation = SharedMemory.noPopulation();
    noPopulation.lock();
    try {
      CopyTraffic traffic = gpu.traffic();
      long until = System.nanoTime() + PATIENCE_NANOS;
      while (traffic.running() && System.nanoTime() - until < 0) {
        LockSupport.parkNanos(this, LOOK_NANOS);
      }
      long begin = System.nanoTime();
      call.run();
      longestNanos = Math.max(longestNanos, System.nanoTime() - begin);
      slicesSeen = traffic.count();
    } finally {
      noPopulation.unlock();
    }
  }

  @Override
  public synchronized void close() {
    stopped = true;
    notifyAll();
    LockSupport.unpark(thread);
  }
}
