package io.flexkv.tier;

import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.SharedMemory;
import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Gives a pool its pages by several background threads while it serves already. Contents stay as
 * they are, so it runs beside copies; a pool that is not prefaulted works too, more slowly.
 *
 * <p>If the kernel refuses (no memory, or older than 5.14) it stops, says so once, and the pages
 * come on first use.
 */
public final class PoolPrefault implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger(PoolPrefault.class.getName());

  /**
   * What a thread asks for at once. Meanwhile nobody maps or unmaps anything in this process, and
   * who waits for that holds up all that meets a new page: so a millisecond's worth of it.
   */
  private static final long PIECE_BYTES = 4L << 20;

  private record Piece(long address, long length) {}

  private final List<Piece> pieces = new ArrayList<>();
  private final List<Thread> threads = new ArrayList<>();
  private final AtomicLong next = new AtomicLong();
  private final AtomicLong populatedBytes = new AtomicLong();
  private final AtomicInteger populatedPieces = new AtomicInteger();
  private final Runnable whenAll;
  private volatile boolean stopped;

  private PoolPrefault(HostPool pool, Runnable whenAll) {
    this.whenAll = whenAll;
    for (MemorySegment segment : pool.segments()) {
      for (long at = 0; at < segment.byteSize(); at += PIECE_BYTES) {
        long length = Math.min(PIECE_BYTES, segment.byteSize() - at);
        pieces.add(new Piece(segment.address() + at, length));
      }
    }
  }

  /**
   * Starts.
   *
   * @param threadCount 1 to 64; more than 8 gained nothing on the machines measured
   * @param whenAll called once, by one of the threads, when the whole pool has its pages; never
   *     where the kernel refused or {@link #close} came first
   */
  public static PoolPrefault start(HostPool pool, int threadCount, Runnable whenAll) {
    if (threadCount < 1 || threadCount > 64) {
      throw new IllegalArgumentException("prefault threads=" + threadCount + ", wanted 1 to 64");
    }
    PoolPrefault prefault = new PoolPrefault(pool, whenAll);
    for (int i = 0; i < Math.min(threadCount, prefault.pieces.size()); i++) {
      prefault.threads.add(
          Thread.ofPlatform().daemon().name("flexkv-prefault-" + i).start(prefault::run));
    }
    return prefault;
  }

  private void run() {
    while (!stopped) {
      long index = next.getAndIncrement();
      if (index >= pieces.size()) {
        return;
      }
      Piece piece = pieces.get((int) index);
      try {
        SharedMemory.populate(piece.address(), piece.length());
        populatedBytes.addAndGet(piece.length());
        if (populatedPieces.incrementAndGet() == pieces.size()) {
          whenAll.run();
        }
      } catch (ErrnoException e) {
        if (!stopped) {
          stopped = true;
          LOG.log(
              Level.WARNING,
              "host pool: prefault stopped after {0} MiB, pages come on first use: {1}",
              populatedBytes.get() >> 20,
              e.getMessage());
        }
      }
    }
  }

  /** Bytes that have their pages. */
  public long populatedBytes() {
    return populatedBytes.get();
  }

  /** Whether no thread works any more: all done, refused, or closed. */
  public boolean finished() {
    return threads.stream().noneMatch(Thread::isAlive);
  }

  /** Stops after the pieces in hand (milliseconds) and waits for that. */
  @Override
  public void close() {
    stopped = true;
    boolean interrupted = false;
    for (Thread thread : threads) {
      while (thread.isAlive()) {
        try {
          thread.join();
        } catch (InterruptedException e) {
          interrupted = true;
        }
      }
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }
}
