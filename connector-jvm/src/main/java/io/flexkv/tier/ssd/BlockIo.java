package io.flexkv.tier.ssd;

import io.flexkv.ffm.DirectFile;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/**
 * The accesses to the files of one directory: a queue by urgency and the threads that carry it out,
 * never through the page cache. Thread-safe.
 */
interface BlockIo extends AutoCloseable {
  /**
   * Queues an access; never waits. After {@link #close} it ends with ECANCELED at once. Its {@code
   * done} is called by a thread of this object, or by the caller's.
   */
  void submit(BlockOp op);

  /**
   * Accesses name the files of this list by their number from now on. Those that both lists have
   * are the same; nothing may be under way, or come, for one that goes.
   */
  void useFiles(List<DirectFile> files);

  /** Ends all accesses that the disk has not been asked for yet, with ECANCELED. */
  void dropQueued();

  /**
   * When the oldest access that is under way began ({@code nanoTime}); MAX_VALUE if there is none.
   */
  long oldestNanos();

  /** Accesses that the disk has been asked for. */
  int inFlight();

  /**
   * Tells of memory that most accesses will use, instead of what it was told of before. May take a
   * while.
   *
   * @return done when no other memory is registered, whether or not this could be; exceptionally
   *     done if that is not sure
   */
  CompletableFuture<Void> registerMemory(List<MemorySegment> ranges);

  /** How it works, for logs and status: {@code io_uring, 64 entries} or {@code 8 threads}. */
  String describe();

  /**
   * Refuses new accesses, drops queued ones and waits for those under way.
   *
   * @return false if some did not come back in time: then the files must stay open
   */
  boolean close(long timeoutNanos);

  @Override
  default void close() {
    close(5_000_000_000L);
  }
}
