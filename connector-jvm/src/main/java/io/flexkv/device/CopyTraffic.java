package io.flexkv.device;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/**
 * What the copies of all GPUs do right now, for whoever has to give way to them: pinning holds a
 * lock of the whole process. Any thread.
 */
final class CopyTraffic {
  private final AtomicInteger inFlight = new AtomicInteger();
  private final AtomicLong submitted = new AtomicLong();

  void submitted() {
    submitted.incrementAndGet();
    inFlight.incrementAndGet();
  }

  void ended(int slices) {
    inFlight.addAndGet(-slices);
  }

  /** Whether a slice is on its way. */
  boolean running() {
    return inFlight.get() > 0;
  }

  /** Slices submitted so far. */
  long count() {
    return submitted.get();
  }
}
