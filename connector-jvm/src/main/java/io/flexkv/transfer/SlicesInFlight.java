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

  /** What is supposed before anything is known. */
  private static final double FIRST_BYTES_PER_NANO = 10;

  private final AgentCounters counters;
  private final LongSupplier clock;
  private final ArrayDeque<Slice> slices = new ArrayDeque<>();
  private long ended;
  private long bytes;
  private long busySinceNanos;
  private double bytesPerNano = FIRST_BYTES_PER_NANO;
  private boolean seenIt;

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
   * as the link.
   */
  long bytesWithin(long nanos) {
    return (long) (bytesPerNano * nanos);
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

  /**
   * So many slices of the stream have ended since it was opened; returns how many of them now.
   *
   * @param heldBack whether more would be on its way but for {@link #bytesWithin}
   */
  int endUpTo(long endedOfStream, boolean heldBack) {
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
      learnRate((double) (before - bytes) / Math.max(1, now - busySinceNanos), heldBack);
      busySinceNanos = now;
    }
    return count;
  }

  /**
   * Where nothing is left, the device may have ended long before this thread looked: then it is at
   * least as fast as that. If it got no more for the sake of what was thought of it, that was too
   * little, and is doubled until a look finds something on its way.
   */
  private void learnRate(double seen, boolean heldBack) {
    if (slices.isEmpty()) {
      bytesPerNano = Math.max(seen, heldBack ? 2 * bytesPerNano : bytesPerNano);
    } else if (seenIt) {
      bytesPerNano += WEIGHT * (seen - bytesPerNano);
    } else {
      bytesPerNano = seen;
      seenIt = true;
    }
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
