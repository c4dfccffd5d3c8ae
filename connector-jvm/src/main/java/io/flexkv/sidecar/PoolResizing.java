package io.flexkv.sidecar;

import io.flexkv.config.Options;
import io.flexkv.device.Devices;
import io.flexkv.ffm.ErrnoException;
import io.flexkv.protocol.RequestException;
import io.flexkv.session.SsdUse;
import io.flexkv.tier.HostPool;
import io.flexkv.tier.PoolPrefault;
import java.io.IOException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The pages of the host pool: given at the start, and when its size is changed while it serves.
 *
 * <p>A change begins on the control thread ({@link #prepare}: checks, and addresses for what is
 * new), takes effect on the cache thread, and is {@link #changed} from there on: one thread here
 * gives new memory its pages, and gives memory that has gone back. Back goes only what the cache
 * thread has freed to the last slot, so no copy can touch it; first whoever has it registered (the
 * driver, io_uring) lets go of it. While it is on its way back, sizes stay as they are.
 */
final class PoolResizing implements AutoCloseable {
  private static final Logger LOG = LoggerFactory.getLogger(PoolResizing.class);
  private static final long LOOK_MILLIS = 50;
  private static final long SAY_NANOS = 30_000_000_000L;

  private final HostPool pool;
  private final Devices devices;
  private final @Nullable SsdUse ssd;
  private final MachineMemory machine;
  private final int prefaultThreads;
  private final Thread thread;
  private @Nullable PoolPrefault prefault;
  private boolean preparing;
  private boolean givingBack;
  private boolean changed;
  private volatile boolean stopped;

  /**
   * @param prefaultThreads 0 = pages come on first use
   */
  PoolResizing(
      HostPool pool,
      Devices devices,
      @Nullable SsdUse ssd,
      MachineMemory machine,
      int prefaultThreads) {
    this.pool = pool;
    this.devices = devices;
    this.ssd = ssd;
    this.machine = machine;
    this.prefaultThreads = prefaultThreads;
    startPrefault(prefaultThreads);
    thread = Thread.ofPlatform().daemon().name("flexkv-pool").start(this::run);
  }

  /**
   * Whether the pool can have another size, and if larger, memory for it. {@link #changed} follows
   * in any case, when the cache thread has resized it or has not.
   *
   * @param bytes at most; the pool has whole extents
   * @return what it is to be resized to
   */
  synchronized long prepare(long bytes) throws RequestException {
    if (!pool.resizable()) {
      throw refused(
          "cpu_cache_gb cannot be changed while reserved huge pages are used: restart the sidecar"
              + " with it, or without use_hugepage_cpu_buffer");
    }
    if (givingBack) {
      throw refused(
          "cpu_cache_gb: memory of the last change is on its way back to the system: try again in"
              + " a moment");
    }
    boolean prepared = false;
    try {
      machine.require(bytes, Options.CPU_CACHE_GB);
      long capacity = pool.resized(bytes);
      pool.openMemory(capacity);
      prepared = true;
      return capacity;
    } catch (IOException e) {
      throw refused("cpu_cache_gb stays as it is: " + e.getMessage());
    } finally {
      preparing = prepared;
    }
  }

  private static RequestException refused(String text) {
    return new RequestException("refused", text);
  }

  /** The pool has another size, or has it not after all. */
  synchronized void changed() {
    preparing = false;
    changed = true;
    notifyAll();
  }

  /** Bytes that have their pages. */
  synchronized long populatedBytes() {
    return prefault == null ? 0 : prefault.populatedBytes();
  }

  /** Whether no thread gives pages any more. */
  synchronized boolean finished() {
    return prefault == null || prefault.finished();
  }

  private void startPrefault(int threads) {
    if (threads > 0 && !stopped) {
      prefault = PoolPrefault.start(pool, threads, this::hasPages);
    }
  }

  private void hasPages() {
    if (ssd != null) {
      CompletableFuture<Void> _ = ssd.store().registerMemory(pool.segments());
    }
  }

  private void run() {
    try {
      while (awaitChange()) {
        if (pool.surplusBytes() == 0) {
          restartPrefault();
          devices.resized(pool.segments());
        } else if (awaitVacancy()) {
          giveBack();
        }
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt(); // by close(), or nobody
    }
  }

  private synchronized boolean awaitChange() throws InterruptedException {
    while (!changed && !stopped) {
      wait();
    }
    changed = false;
    return !stopped;
  }

  private synchronized void restartPrefault() {
    stopPrefault();
    startPrefault(Math.min(1, prefaultThreads)); // engines are being served: no hurry
  }

  private synchronized void stopPrefault() {
    if (prefault != null) {
      prefault.close();
    }
  }

  /** Waits until nothing is held beyond the end; false if the size is changed once more. */
  private synchronized boolean awaitVacancy() throws InterruptedException {
    long said = System.nanoTime();
    while (!changed && !stopped) {
      if (!preparing && pool.vacant()) {
        givingBack = true;
        return true;
      }
      if (System.nanoTime() - said > SAY_NANOS) {
        said = System.nanoTime();
        LOG.info(
            "host tier: {} MiB are to be given back and wait for loads, leases or saves to end",
            pool.surplusBytes() >> 20);
      }
      wait(LOOK_MILLIS);
    }
    return false;
  }

  private void giveBack() throws InterruptedException {
    long begin = System.nanoTime();
    long surplus = pool.surplusBytes();
    try {
      stopPrefault(); // it would give pages to what goes
      pool.retract();
      long[] pinned = devices.resized(pool.segments());
      unregister();
      pool.giveBack(pinned);
      LOG.info(
          "host tier: {} MiB given back to the system in {} ms, it has {} MiB now",
          surplus >> 20,
          (System.nanoTime() - begin) / 1_000_000,
          pool.capacityBytes() >> 20);
    } catch (ErrnoException e) {
      LOG.warn("host tier: memory was not given back, it is not used: {}", e.getMessage());
    } catch (ExecutionException e) {
      LOG.warn(
          "host tier: memory was not given back, it is not used: a disk of the SSD tier may have it"
              + " registered still ({})",
          String.valueOf(e.getCause()));
    } catch (RuntimeException e) {
      LOG.error("host tier: memory was not given back, it is not used", e);
    } finally {
      synchronized (this) {
        givingBack = false;
        startPrefault(Math.min(1, prefaultThreads));
      }
    }
  }

  /**
   * Waits until no directory has the memory registered: a hung disk may take its time.
   *
   * @throws ExecutionException if one may have it registered for ever
   */
  private void unregister() throws InterruptedException, ExecutionException {
    SsdUse disks = ssd;
    if (disks == null) {
      return;
    }
    CompletableFuture<Void> done = disks.store().registerMemory(pool.segments());
    while (true) {
      try {
        done.get(SAY_NANOS, TimeUnit.NANOSECONDS);
        return;
      } catch (TimeoutException e) {
        LOG.warn("host tier: memory is not given back yet, a disk of the SSD tier does not answer");
      }
    }
  }

  /** Ends its threads; memory stays as it is. */
  @Override
  public void close() {
    synchronized (this) {
      stopped = true;
      notifyAll();
      stopPrefault();
    }
    thread.interrupt();
  }
}
