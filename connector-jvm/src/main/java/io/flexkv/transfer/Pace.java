package io.flexkv.transfer;

import io.flexkv.device.Direction;

/**
 * Keeps one direction of one rank under its limit: after a slice the next one waits until the bytes
 * so far would have been moved at the limit, less {@link #AHEAD_NANOS}. So what the limit allows in
 * that time goes at once, and a thread that wakes up late by less loses nothing of the rate.
 *
 * <p>Who sets a limit does it for a neighbour. A copy engine that has work of one process takes up
 * none of another's for a millisecond (measured), but changes over as soon as it rests. So under a
 * limit slices are short and go one at a time: between them a neighbour's own small copies get
 * their turn.
 *
 * <p>Mover's thread only; the limit itself may change at any time.
 */
final class Pace {
  /** How far copies may be ahead of the limit: ten times what a mover naps at most. */
  static final long AHEAD_NANOS = 2_000_000;

  /** A slice under a limit: 80 µs of the link, twice what passes between one and the next. */
  static final long SLICE_BYTES = 4 << 20;

  private static final double NANOS_PER_SECOND = 1e9;

  private final MoveLimits limits;
  private final Direction direction;

  /** When what was submitted so far is over at the limit; of no meaning while {@link #fresh}. */
  private long overAtNanos;

  /** The limit that it was reckoned at; another one since then begins anew. */
  private long rateThen;

  private boolean fresh = true;

  Pace(MoveLimits limits, Direction direction) {
    this.limits = limits;
    this.direction = direction;
  }

  /** Whether there is a limit: then a slice waits for the end of the one before. */
  boolean oneAtATime() {
    return limits.bytesPerSecond(direction) != 0;
  }

  /** How long a slice may be that could have so many bytes without a limit. */
  long bytesOfNext(long bytes) {
    return oneAtATime() ? Math.min(bytes, SLICE_BYTES) : bytes;
  }

  /** Whether the next slice may be submitted now. */
  boolean allows(long nowNanos) {
    return fresh
        || limits.bytesPerSecond(direction) != rateThen
        || overAtNanos - nowNanos <= AHEAD_NANOS;
  }

  /** A slice was submitted. */
  void submitted(long bytes, long nowNanos) {
    long rate = limits.bytesPerSecond(direction);
    fresh |= rate != rateThen;
    rateThen = rate;
    if (rate == 0) {
      fresh = true;
      return;
    }
    long from = fresh || overAtNanos - nowNanos < 0 ? nowNanos : overAtNanos;
    overAtNanos = from + (long) (bytes * NANOS_PER_SECOND / rate);
    fresh = false;
  }
}
