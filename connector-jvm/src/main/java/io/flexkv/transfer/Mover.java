package io.flexkv.transfer;

import io.flexkv.device.CopyStream;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/**
 * Moves the blocks of one rank: a thread for loads and a thread for saves, both bounded in jobs, in
 * the length of a slice, and in what a stop may take. Jobs go in by {@link #submit}, each comes out
 * as exactly one {@link Completion}; as a second one only after {@link #stop} gave it up.
 */
public final class Mover {
  /** Jobs that may wait for one direction of one rank. */
  public static final int MAX_JOBS = 1024;

  private static final long EXPECTED_NANOS = 2_000_000;

  private final CopyAgent load;
  private final CopyAgent save;
  private final AgentRunner loadRunner;
  private final AgentRunner saveRunner;
  private final LongSupplier clock;

  private Mover(CopyAgent load, CopyAgent save, LongSupplier clock) {
    this.load = load;
    this.save = save;
    this.clock = clock;
    this.loadRunner = new AgentRunner(load);
    this.saveRunner = new AgentRunner(save);
  }

  /**
   * Opens both streams and starts both threads.
   *
   * @param name of the rank, for thread names and logs
   * @param memory stays the caller's to close, after {@link #stop}
   * @param fences likewise
   * @param limits how much may be moved in a second
   */
  public static Mover start(
      String name,
      DeviceMemory memory,
      FenceRing fences,
      CompletionQueue completions,
      MoveLimits limits)
      throws DeviceException {
    return start(
        name, memory, fences, completions, System::nanoTime, SliceBudget.SAVE_PAUSE_NANOS, limits);
  }

  static Mover start(
      String name,
      DeviceMemory memory,
      FenceRing fences,
      CompletionQueue completions,
      LongSupplier clock,
      long savePauseNanos,
      MoveLimits limits)
      throws DeviceException {
    Geometry geometry = new Geometry(memory);
    AtomicBoolean loadsMove = new AtomicBoolean();
    CopyStream loads = memory.openStream(Direction.LOAD);
    CopyStream saves;
    try {
      saves = memory.openStream(Direction.SAVE);
    } catch (DeviceException | RuntimeException e) {
      loads.close();
      throw e;
    }
    Mover mover =
        new Mover(
            new CopyAgent(
                "flexkv-load-" + name,
                Direction.LOAD,
                geometry,
                loads,
                fences,
                completions,
                loadsMove,
                clock,
                savePauseNanos,
                limits,
                MAX_JOBS),
            new CopyAgent(
                "flexkv-save-" + name,
                Direction.SAVE,
                geometry,
                saves,
                fences,
                completions,
                loadsMove,
                clock,
                savePauseNanos,
                limits,
                MAX_JOBS),
            clock);
    mover.loadRunner.start();
    mover.saveRunner.start();
    return mover;
  }

  /**
   * Takes a job. Any thread.
   *
   * @return false if there is no room (here or in the completion queue) or the mover stops; the job
   *     then gets no completion
   */
  public boolean submit(TransferJob job) {
    boolean loads = job.direction() == Direction.LOAD;
    if (!(loads ? load : save).offer(job)) {
      return false;
    }
    (loads ? loadRunner : saveRunner).wake();
    return true;
  }

  /**
   * A load was planned and comes within a millisecond or so: its thread may as well be awake then,
   * for waking up takes a tenth of one. Any thread.
   */
  public void expectLoad() {
    load.expect(EXPECTED_NANOS);
    loadRunner.wake();
  }

  /**
   * Takes back a job, as its revoke word would; it still gets its completion. A job that is not
   * here (any more) is left alone. Any thread.
   *
   * @return false if too many such requests wait already: ask again
   */
  public boolean revoke(long jobId, Direction direction) {
    boolean loads = direction == Direction.LOAD;
    if (!(loads ? load : save).revoke(jobId)) {
      return false;
    }
    (loads ? loadRunner : saveRunner).wake();
    return true;
  }

  /**
   * Why every job of one direction fails from now on, null if none need; whoever has seen a job
   * fail for that reason gets it. A mover does not recover. Any thread.
   */
  public @Nullable String failed() {
    String cause = load.dead();
    return cause == null ? save.dead() : cause;
  }

  /** What has been done so far. Any thread. */
  public MoverCounters counters() {
    return new MoverCounters(load.counters().side(), save.counters().side());
  }

  /**
   * Ends: nothing more is accepted, jobs that have copies on their way are drained, all others fail
   * at once, every one gets its completion. Waits for it.
   *
   * @param drainNanos how long the device may take for the copies that are on their way; after it
   *     their jobs end with {@code drained = false}
   * @return true if everything was drained. False: the device memory must not be closed before
   *     {@link #awaitDrained}. If a thread did not even come back from a call into the device
   *     within one more second, jobs of it that have no completion yet get theirs when it does
   */
  public boolean stop(long drainNanos) {
    long giveUpAt = clock.getAsLong() + drainNanos;
    load.stop(giveUpAt);
    save.stop(giveUpAt);
    loadRunner.wake();
    saveRunner.wake();
    long until = System.nanoTime() + drainNanos + 1_000_000_000L;
    boolean drained = drains(load, loadRunner, until);
    return drains(save, saveRunner, until) && drained;
  }

  /** Whether it ends with everything drained; waits until it has ended or given up. */
  private static boolean drains(CopyAgent agent, AgentRunner runner, long until) {
    try {
      if (!agent.settled().await(until - System.nanoTime(), TimeUnit.NANOSECONDS)) {
        return false;
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    if (agent.gaveUp() && !runner.ended()) {
      return false;
    }
    return runner.join(until - System.nanoTime()) && agent.allDrained();
  }

  /**
   * After a {@link #stop} that said false: waits, without limit, until the device has ended what it
   * was given up for. Both threads are gone then.
   *
   * @return false if that will never be known, after an internal error (or an interrupt of this
   *     thread): the device memory must not be closed
   */
  public boolean awaitDrained() {
    return loadRunner.join(Long.MAX_VALUE)
        && saveRunner.join(Long.MAX_VALUE)
        && load.allDrained()
        && save.allDrained();
  }
}
