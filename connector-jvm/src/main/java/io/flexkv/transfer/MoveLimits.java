package io.flexkv.transfer;

import io.flexkv.device.Direction;

/**
 * What the movers of a sidecar may move in a second, each direction of each rank for itself: beside
 * copies at the full rate of the link a decoding engine waits for its own. Any thread may set it at
 * any time.
 */
public final class MoveLimits {
  private volatile long loadBytesPerSecond;
  private volatile long saveBytesPerSecond;

  /** 0: as fast as the device goes. */
  public void set(long loads, long saves) {
    if (loads < 0 || saves < 0) {
      throw new IllegalArgumentException(
          "limits of %d and %d bytes a second, must be at least 0".formatted(loads, saves));
    }
    loadBytesPerSecond = loads;
    saveBytesPerSecond = saves;
  }

  long bytesPerSecond(Direction direction) {
    return direction == Direction.LOAD ? loadBytesPerSecond : saveBytesPerSecond;
  }
}
