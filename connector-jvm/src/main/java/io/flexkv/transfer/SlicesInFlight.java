package io.flexkv.transfer;

import java.util.ArrayDeque;
import java.util.function.LongSupplier;

/**
 * The slices that were submitted to one stream and have not ended, in their order, and what that
 * means for the jobs they are of. One thread only.
 */
final class SlicesInFlight {
  /** One slice: whose, how many of its blocks are whole with it, how many bytes. */
  private record Slice(JobState state, int blocks, long bytes) {}

  /** Of what the device did of late: a quarter of the last look, the rest from before. */
  private static final double WEIGHT = 0.25;

  private final AgentCounters counters;
  private final LongSupplier clock;
  private final ArrayDeque<Slice> slices = new ArrayDeque<>();
  private long ended;
  private long bytes;
  private long busySinceNanos;
  private double bytesPerNano;

  SlicesInFlight(AgentCounters counters, LongSupplier clock) {
    this.counters = counters;
    this.clock = clock;
  }

  boolean isEmpty() {
    return slices.isEmpty();
  }

  int count() {
    return slices.size();
  }

  long bytes() {
    return bytes;
  }

  /**
   * What ends within so long, as copies went of late: small rows take the driver ten times as long
   * as the link. Any number before the first has ended.
   */
  long bytesWithin(long nanos) {
    return bytesPerNano == 0 ? Long.MAX_VALUE : (long) (bytesPerNano * nanos);
  }

  /** A slice of this job, up to the block that it submits next, has been submitted. */
  void add(JobState state, long sliceBytes, long nowNanos) {
    if (slices.isEmpty()) {
      busySinceNanos = nowNanos;
    }
    state.sliceAt(nowNanos);
    state.inFlight++;
    bytes += sliceBytes;
    slices.add(new Slice(state, state.block, sliceBytes));
  }

  /** So many slices of the stream have ended since it was opened; returns how many of them now. */
  int endUpTo(long endedOfStream) {
    int count = 0;
    long before = bytes;
    for (; ended < endedOfStream; ended++, count++) {
      Slice slice = slices.remove();
      JobState state = slice.state();
      bytes -= slice.bytes();
      state.inFlight--;
      state.blocksCopied = slice.blocks();
      state.bytesCopied += slice.bytes();
      counters.slice(slice.bytes());
    }
    if (count > 0) {
      long now = clock.getAsLong();
      counters.busy(now - busySinceNanos);
      learnRate(before - bytes, Math.max(1, now - busySinceNanos));
      busySinceNanos = now;
    }
    return count;
  }

  private void learnRate(long moved, long nanos) {
    double seen = (double) moved / nanos;
    bytesPerNano = bytesPerNano == 0 ? seen : bytesPerNano + WEIGHT * (seen - bytesPerNano);
  }

  /** The jobs of all of them end as not drained, once they end. */
  void markUndrained() {
    for (Slice slice : slices) {
      slice.state().undrained = true;
    }
  }

  /** Waits for none any more: they are lost, or their jobs are marked as not drained. */
  void drop(String cause) {
    for (Slice slice : slices) {
      slice.state().inFlight--;
      slice.state().endAs(Completion.Status.FAILED, cause);
    }
    slices.clear();
    bytes = 0;
  }
}
