package io.flexkv.transfer;

import java.util.concurrent.atomic.AtomicLong;

/** What one direction of a rank has done since it was attached; written by its one thread. */
final class AgentCounters {
  private final AtomicLong bytes = new AtomicLong();
  private final AtomicLong slices = new AtomicLong();
  private final AtomicLong busyNanos = new AtomicLong();
  private final AtomicLong ok = new AtomicLong();
  private final AtomicLong failed = new AtomicLong();
  private final AtomicLong revoked = new AtomicLong();
  private volatile JobStages last = JobStages.NONE;

  private static void add(AtomicLong counter, long amount) {
    counter.setRelease(counter.getPlain() + amount);
  }

  void slice(long sliceBytes) {
    add(bytes, sliceBytes);
    add(slices, 1);
  }

  void busy(long nanos) {
    add(busyNanos, nanos);
  }

  void job(Completion.Status status, JobStages stages) {
    switch (status) {
      case OK -> {
        last = stages;
        add(ok, 1);
      }
      case FAILED -> add(failed, 1);
      case REVOKED -> add(revoked, 1);
    }
  }

  MoverCounters.Side side() {
    return new MoverCounters.Side(
        bytes.getAcquire(),
        slices.getAcquire(),
        busyNanos.getAcquire(),
        ok.getAcquire(),
        failed.getAcquire(),
        revoked.getAcquire(),
        last);
  }
}
