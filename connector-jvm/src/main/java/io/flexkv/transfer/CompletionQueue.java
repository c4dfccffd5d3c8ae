package io.flexkv.transfer;

import java.lang.System.Logger.Level;
import org.jspecify.annotations.Nullable;

/**
 * Where the movers of all ranks post, and one thread (the cache's) takes. A mover takes room here
 * before it accepts a job, so a completion is never lost and never waits; a full queue shows as a
 * refused job.
 */
public final class CompletionQueue {
  private static final System.Logger LOG = System.getLogger(CompletionQueue.class.getName());

  private final MpscQueue<Completion> queue;
  private final Runnable wakeUp;

  /**
   * @param capacity jobs that may be accepted and not yet taken from here
   * @param wakeUp called after each post, by a mover's thread; must not block or throw
   */
  public CompletionQueue(int capacity, Runnable wakeUp) {
    this.queue = new MpscQueue<>(capacity);
    this.wakeUp = wakeUp;
  }

  /** The next completion, null if there is none. One thread only. */
  public @Nullable Completion poll() {
    return queue.poll();
  }

  boolean reserve() {
    return queue.reserve();
  }

  void cancel() {
    queue.cancel();
  }

  void post(Completion completion) {
    queue.put(completion);
    try {
      wakeUp.run();
    } catch (RuntimeException e) {
      LOG.log(Level.ERROR, "the wake-up after a completion failed", e);
    }
  }
}
