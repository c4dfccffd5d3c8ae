package io.flexkv.session;

/**
 * How long the cache thread looks for more before it sleeps.
 *
 * <p>On a core of its own, spinning answers the next record in a microsecond instead of the tens
 * that a wake-up takes. On the core of the client (the kernel likes to wake a thread where its
 * waker runs) it keeps the client from reading the answer: then no spin ever finds anything, and
 * the client's next record wakes us right after we slept. So a spin that found nothing and was
 * followed by a quick wake-up counts against spinning, one that found something for it; while
 * spinning is off, one turn in {@value #PROBE_EVERY} tries it. ({@code sched_yield} is no way out:
 * with a third process that computes, each yield costs a time slice of milliseconds.)
 *
 * <p>One thread.
 */
final class SpinPolicy {
  private static final int PROBE_EVERY = 64;
  private static final int FAILURES_TO_STOP = 3;
  private static final long QUICK_NANOS = 200_000;

  private final long maxNanos;
  private int failures;
  private int turns;
  private boolean spun;
  private long expectedUntilNanos;
  private boolean expecting;

  /**
   * @param maxNanos how long a spin may take, 0 = never spin
   */
  SpinPolicy(long maxNanos) {
    this.maxNanos = maxNanos;
  }

  /**
   * Something will come before this time, for which a wake-up would be late: until then spins are
   * longer, where they do any good.
   */
  void expect(long untilNanos) {
    expectedUntilNanos = untilNanos;
    expecting = true;
  }

  /** After work: how long to look for more, in nanoseconds. */
  long afterWork(long nowNanos) {
    spun = failures < FAILURES_TO_STOP || ++turns % PROBE_EVERY == 0;
    if (!spun || maxNanos == 0) {
      return 0;
    }
    expecting &= expectedUntilNanos - nowNanos > 0;
    return expecting ? Math.max(maxNanos, expectedUntilNanos - nowNanos) : maxNanos;
  }

  /** More came before the time was over. */
  void found() {
    if (spun) {
      failures = 0;
    }
  }

  /**
   * Nothing had come, so the thread slept.
   *
   * @param woken whether somebody woke it, rather than the time limit
   */
  void slept(long nanos, boolean woken) {
    if (spun && woken && nanos < QUICK_NANOS) {
      failures = Math.min(failures + 1, FAILURES_TO_STOP);
    }
  }
}
