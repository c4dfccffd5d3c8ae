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
  private final Runnable getReady;
  private volatile boolean announced;

  /**
   * @param capacity jobs that may be accepted and not yet taken from here
   * @param wakeUp called after each post, by a mover's thread; must not block or throw
   */
  public CompletionQueue(int capacity, Runnable wakeUp) {
    this(capacity, wakeUp, () -> {});
  }

  /**
   * @param getReady called likewise when the last of a load is on its way: the thread that passes
   *     its end on may as well be awake by then
   */
  public CompletionQueue(int capacity, Runnable wakeUp, Runnable getReady) {
    this.queue = new MpscQueue<>(capacity);
    this.wakeUp = wakeUp;
    this.getReady = getReady;
  }

  /** The next completion, null if there is none. One thread only. */
  public @Nullable Completion poll() {
    return queue.poll();
  }

  /**
   * Whether a completion was announced since the last question: it comes within a millisecond or
   * so. One thread only.
   */
  public boolean takeAnnounced() {
    if (!announced) {
      return false;
    }
    announced = false;
    return true;
  }

  /** The last of a load is on its way. By a mover's thread. */
  void announce() {
    announced = true;
    call(getReady);
  }

  boolean reserve() {
    return queue.reserve();
  }

  void cancel() {
    queue.cancel();
  }

  void post(Completion completion) {
    queue.put(completion);
    call(wakeUp);
  }

  private static void call(Runnable wakeUp) {
    try {
      wakeUp.run();
    } catch (RuntimeException e) {
      LOG.log(Level.ERROR, "the wake-up for a completion failed", e);
    }
  }
}
