package io.flexkv.transfer;

import io.flexkv.device.SliceLimits;
import java.util.function.BooleanSupplier;
import java.util.function.LongSupplier;

/**
 * When a mover may submit its next slice, and how long that may be: as much is on its way as keeps
 * the device busy and no more, for a revoked load waits for it; saves leave the device to loads; a
 * limit is kept ({@link Pace}).
 *
 * <p>Owned by the mover's thread.
 */
final class SliceBudget {
  /**
   * While loads move, saves submit one slice in this time, a long one: 16 GB/s. At full rate they
   * cost the load 6 % (measured); much less, and blocks are reused before they are saved.
   */
  static final long SAVE_PAUSE_NANOS = 1_000_000;

  /** What is on its way takes no longer than this, for a revoked load waits for it... */
  private static final long AHEAD_NANOS = 2_000_000;

  /**
   * ... but for so many slices, without which the device rests between them. The end of a strided
   * one shows only with that of the next.
   */
  private static final int MIN_IN_FLIGHT = 3;

  /**
   * So many slices take as long as what may be on its way. Three of 16 MiB take 10 ms where rows go
   * one by one, which a revoked load would wait for. Submitting one must cost this thread far less
   * than its share of that time, or slices shrink for the cost of submitting them.
   */
  private static final int SLICES_AHEAD = 6;

  /** Rows longer than a slice are cut at multiples of this. */
  private static final long CUT_BYTES = 64 << 10;

  private final SliceLimits limits;
  private final SlicesInFlight inFlight;
  private final Pace pace;
  private final BooleanSupplier givesWay;
  private final long pauseNanos;
  private final BooleanSupplier anythingToSubmit;
  private final LongSupplier clock;
  private long lastSubmitNanos;

  /** Since slices last ended: whether more would be on its way but for {@link #AHEAD_NANOS}. */
  private boolean heldBack;

  /**
   * @param givesWay whether slices are to come at intervals now
   * @param pauseNanos from one to the next then
   * @param anythingToSubmit asked where nothing may be
   */
  SliceBudget(
      SliceLimits limits,
      SlicesInFlight inFlight,
      Pace pace,
      BooleanSupplier givesWay,
      long pauseNanos,
      BooleanSupplier anythingToSubmit,
      LongSupplier clock) {
    this.limits = limits;
    this.inFlight = inFlight;
    this.pace = pace;
    this.givesWay = givesWay;
    this.pauseNanos = pauseNanos;
    this.anythingToSubmit = anythingToSubmit;
    this.clock = clock;
    this.lastSubmitNanos = clock.getAsLong() - pauseNanos;
  }

  /** Whether the next slice may be submitted now. */
  boolean mayCopy() {
    if (!hasRoom()) {
      return false;
    }
    long now = clock.getAsLong();
    return pace.allows(now) && (!givesWay.getAsBoolean() || now - lastSubmitNanos >= pauseNanos);
  }

  private boolean hasRoom() {
    if (pace.oneAtATime()) {
      return inFlight.isEmpty();
    }
    return inFlight.count() < limits.inFlight()
        && inFlight.bytes() < limits.bytesInFlight()
        && !isAheadEnough();
  }

  private boolean isAheadEnough() {
    boolean enough =
        inFlight.count() >= MIN_IN_FLIGHT && inFlight.bytes() >= inFlight.bytesWithin(AHEAD_NANOS);
    heldBack |= enough && anythingToSubmit.getAsBoolean();
    return enough;
  }

  /**
   * Bytes that the next slice may have. What comes at intervals does not begin with a short one:
   * the device rests anyway.
   */
  long bytesOfNext() {
    if (givesWay.getAsBoolean() || pace.oneAtATime()) {
      return pace.bytesOfNext(limits.bytes());
    }
    long aPart = inFlight.bytesWithin(AHEAD_NANOS / SLICES_AHEAD) / CUT_BYTES * CUT_BYTES;
    return Math.min(limits.bytesOfNext(inFlight.bytes()), Math.max(limits.firstBytes(), aPart));
  }

  /** A slice is about to be submitted, whether that will do or not. */
  void submitting() {
    lastSubmitNanos = clock.getAsLong();
  }

  /** It was submitted: of this job, up to the block that it submits next. */
  void submitted(JobState state, long bytes) {
    pace.submitted(bytes, lastSubmitNanos);
    inFlight.add(state, bytes, lastSubmitNanos);
  }

  /** When the last slice was {@link #submitting}. */
  long lastSubmitNanos() {
    return lastSubmitNanos;
  }

  /** So many slices of the stream have ended since it was opened; returns how many of them now. */
  int endUpTo(long endedOfStream) {
    int ended = inFlight.endUpTo(endedOfStream, heldBack);
    heldBack &= ended == 0;
    return ended;
  }
}
