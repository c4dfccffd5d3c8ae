package io.flexkv.session;

/**
 * How often the copies of one rank have failed for good of late, and how long it is left alone for
 * that: a device that fails again and again would cost a request's load each time, where an engine
 * without a cache loses nothing. Cache thread only.
 */
final class CopyFailures {
  static final long FIRST_PAUSE_NANOS = 5_000_000_000L;
  static final long LONGEST_PAUSE_NANOS = 300_000_000_000L;

  /** A failure after as long a time without one counts as the first. */
  static final long FORGET_NANOS = 600_000_000_000L;

  /**
   * A device that is refused for as long is not just busy with the end of what was there before.
   */
  static final long REFUSED_NANOS = 10_000_000_000L;

  private int count;
  private long lastNanos;
  private long pauseNanos;
  private boolean refused;
  private boolean told;
  private long refusedSinceNanos;

  /**
   * One more. After the first the rank may be back at once, after each later one after twice the
   * time.
   */
  void add(long nowNanos) {
    count = count > 0 && nowNanos - lastNanos > FORGET_NANOS ? 1 : count + 1;
    lastNanos = nowNanos;
    int doubled = Math.min(count - 2, 16);
    pauseNanos = count == 1 ? 0 : Math.min(LONGEST_PAUSE_NANOS, FIRST_PAUSE_NANOS << doubled);
  }

  /** Whether the rank takes no part; until {@link #resume} says that it may. */
  boolean paused() {
    return pauseNanos > 0;
  }

  /** Ends a pause that has been long enough; returns whether it did. */
  boolean resume(long nowNanos) {
    if (!paused() || nowNanos - lastNanos < pauseNanos) {
      return false;
    }
    pauseNanos = 0;
    return true;
  }

  /** The device refused the rank's memory; returns whether it has done nothing else for long. */
  boolean refused(long nowNanos) {
    if (!refused) {
      refused = true;
      refusedSinceNanos = nowNanos;
    }
    return nowNanos - refusedSinceNanos >= REFUSED_NANOS;
  }

  /** The device took the rank's memory. */
  void accepted() {
    refused = false;
    told = false;
  }

  /** Whether the operator is to be told that it is refused: once. */
  boolean tell() {
    boolean first = !told;
    told = true;
    return first;
  }

  @Override
  public String toString() {
    return "its copies failed %d times of late, it is left alone for %d s"
        .formatted(count, pauseNanos / 1_000_000_000);
  }
}
