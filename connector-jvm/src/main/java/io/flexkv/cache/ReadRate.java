package io.flexkv.cache;

/**
 * How fast the SSD has brought bytes lately, whoever wanted them. Measured over stretches in which
 * at least one read was under way, each counting as much as all before it; stretches of less than
 * {@value #MIN_BYTES} bytes tell the latency, not the rate. What is older than {@value
 * #VALID_SECONDS} s counts for nothing: a disk that was busy once is asked again.
 */
final class ReadRate {
  private static final long VALID_SECONDS = 60;
  private static final double NANOS = 1e9;
  private static final long STRETCH_NANOS = 50_000_000L;
  private static final long MIN_BYTES = 4 << 20;

  private int underWay;
  private long stretchBegan;
  private long stretchBytes;
  private double bytesPerSecond;
  private long measuredAt;

  void begun(long now) {
    if (underWay++ == 0) {
      stretchBegan = now;
      stretchBytes = 0;
    }
  }

  void brought(long bytes, long now) {
    stretchBytes += bytes;
    if (stretchBytes >= MIN_BYTES && now - stretchBegan >= STRETCH_NANOS) {
      measure(now);
    }
  }

  void ended(long now) {
    if (underWay == 0) {
      throw new IllegalStateException("a read ended that had not begun");
    }
    if (--underWay == 0 && stretchBytes >= MIN_BYTES && now > stretchBegan) {
      measure(now);
    }
  }

  private void measure(long now) {
    double rate = stretchBytes * NANOS / (now - stretchBegan);
    bytesPerSecond = bytesPerSecond(now) == 0 ? rate : (bytesPerSecond + rate) / 2;
    measuredAt = now;
    stretchBegan = now;
    stretchBytes = 0;
  }

  /** 0 if it is not known. */
  double bytesPerSecond(long now) {
    return now - measuredAt <= VALID_SECONDS * (long) NANOS ? bytesPerSecond : 0;
  }
}
