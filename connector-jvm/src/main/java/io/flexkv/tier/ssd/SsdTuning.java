package io.flexkv.tier.ssd;

/**
 * What operators have no reason to change, and tests have.
 *
 * @param extentBytes 0 = chosen by the capacity
 * @param stallNanos an access that takes longer makes its directory stalled
 * @param maxReadErrors a directory with more read errors is taken out; one write error suffices
 * @param maxOpenJobs jobs that have not ended
 * @param maxQueuedBlocks blocks of them a directory
 * @param barrierNanos how often what was written is made to survive a power failure
 * @param resetNanos how long a reset waits for a directory that does not answer
 * @param waitingBytes heap for blocks that a start finds before their parents
 * @param faults where the disks fail
 */
record SsdTuning(
    long extentBytes,
    long stallNanos,
    int maxReadErrors,
    int maxOpenJobs,
    int maxQueuedBlocks,
    long barrierNanos,
    long resetNanos,
    long waitingBytes,
    IoFaults faults) {
  private static final long SECOND = 1_000_000_000L;

  static SsdTuning defaults() {
    return new SsdTuning(
        0, 2 * SECOND, 8, 4096, 1 << 16, 5 * SECOND, 10 * SECOND, 16L << 20, IoFaults.NONE);
  }

  SsdTuning withFaults(IoFaults where) {
    return new SsdTuning(
        extentBytes,
        stallNanos,
        maxReadErrors,
        maxOpenJobs,
        maxQueuedBlocks,
        barrierNanos,
        resetNanos,
        waitingBytes,
        where);
  }

  SsdTuning withExtentBytes(long bytes) {
    return new SsdTuning(
        bytes,
        stallNanos,
        maxReadErrors,
        maxOpenJobs,
        maxQueuedBlocks,
        barrierNanos,
        resetNanos,
        waitingBytes,
        faults);
  }

  SsdTuning withStallNanos(long nanos) {
    return new SsdTuning(
        extentBytes,
        nanos,
        maxReadErrors,
        maxOpenJobs,
        maxQueuedBlocks,
        barrierNanos,
        resetNanos,
        waitingBytes,
        faults);
  }

  SsdTuning withWaitingBytes(long bytes) {
    return new SsdTuning(
        extentBytes,
        stallNanos,
        maxReadErrors,
        maxOpenJobs,
        maxQueuedBlocks,
        barrierNanos,
        resetNanos,
        bytes,
        faults);
  }
}
