package io.flexkv.transfer;

import io.flexkv.ffm.Linux;
import java.lang.System.Logger.Level;
import java.util.concurrent.locks.LockSupport;

/**
 * Runs one agent on a platform thread of its own until the agent is finished. Idle cycles first
 * spin a little, then rest: 20 µs while copies run, up to 200 µs while something else is under way,
 * or until {@link #wake} when nothing is; and not while a load is about to begin or to end. The
 * kernel's usual 50 µs of slack would more than double the shortest rest, so this thread does
 * without.
 */
final class AgentRunner {
  private static final System.Logger LOG = System.getLogger(AgentRunner.class.getName());
  private static final int SPINS = 50;
  private static final long REST_NANOS_MIN = 20_000;
  private static final long REST_NANOS_MAX = 200_000;
  private static final long REST_NANOS_GIVEN_UP = 100_000_000;
  private static final boolean CORES_TO_SPARE = Runtime.getRuntime().availableProcessors() >= 4;

  private final Agent agent;
  private final Thread thread;
  private volatile boolean signalled;

  AgentRunner(Agent agent) {
    this.agent = agent;
    this.thread = Thread.ofPlatform().daemon().name(agent.roleName()).unstarted(this::run);
  }

  void start() {
    thread.start();
  }

  private void run() {
    int idleCycles = 0;
    long rest = REST_NANOS_MIN;
    Linux.exactSleeps();
    try {
      while (!agent.finished()) {
        if (agent.doWork() > 0) {
          idleCycles = 0;
          rest = REST_NANOS_MIN;
        } else if (++idleCycles < SPINS) {
          Thread.onSpinWait();
        } else {
          switch (agent.idle()) {
            case NOT_AT_ALL -> notAtAll();
            case SOON -> LockSupport.parkNanos(this, REST_NANOS_MIN);
            case POLL -> {
              LockSupport.parkNanos(this, rest);
              rest = Math.min(2 * rest, REST_NANOS_MAX);
            }
            case RARELY -> LockSupport.parkNanos(this, REST_NANOS_GIVEN_UP);
            case WAIT -> {
              await();
              idleCycles = 0;
              rest = REST_NANOS_MIN;
            }
          }
        }
      }
    } catch (RuntimeException | Error e) {
      LOG.log(Level.ERROR, agent.roleName() + " ended by an error of its own", e);
      throw e;
    } finally {
      agent.onClose();
    }
  }

  /** A rest of the shortest kind costs 50 µs and more; a core that others wait for is not ours. */
  private void notAtAll() {
    if (CORES_TO_SPARE) {
      Thread.onSpinWait();
    } else {
      LockSupport.parkNanos(this, REST_NANOS_MIN);
    }
  }

  private void await() {
    while (!signalled) {
      LockSupport.park(this);
    }
    signalled = false;
  }

  /** Ends the rest of an agent that waits; call after making the work visible. */
  void wake() {
    if (!signalled) {
      signalled = true;
      LockSupport.unpark(thread);
    }
  }

  /** Whether the thread has ended. */
  boolean ended() {
    return !thread.isAlive();
  }

  /** Waits for the thread's end; false at the limit. An interrupt stays set for the caller. */
  boolean join(long timeoutNanos) {
    try {
      return thread.join(java.time.Duration.ofNanos(Math.max(1, timeoutNanos)));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return ended();
    }
  }
}
