package io.flexkv.device;

/**
 * What one slice may hold so that it is at most 2 ms of work, and how much may be on its way.
 *
 * @param copies descriptors of one slice
 * @param bytes of one slice
 * @param firstBytes of a slice while nothing is on its way, because the device rests until it has
 *     it; later ones may be as long as all that is on its way. So many may any slice have, however
 *     slow the device
 * @param inFlight slices submitted and not complete
 * @param bytesInFlight of all of them: enough to keep the link busy, and no more than 2 ms of it,
 *     because a revoked load waits for them. A slice is submitted while less than this is on its
 *     way
 * @param stridedUpTo rows of at most this many bytes are better moved as one strided copy than one
 *     by one; 0 if never
 */
public record SliceLimits(
    int copies, long bytes, long firstBytes, int inFlight, long bytesInFlight, long stridedUpTo) {
  /**
   * With a larger pitch {@code cuMemcpy2DAsync} refuses, and batched 3-D copies have a tenth of the
   * speed: 1.6 GB/s for rows of 4 KiB, 5.7 for 16 (measured).
   */
  static final long STRIDED_PITCH_UP_TO = Integer.MAX_VALUE;

  public SliceLimits {
    if (copies < 1
        || bytes < 1
        || firstBytes < 1
        || firstBytes > bytes
        || inFlight < 1
        || bytesInFlight < 1) {
      throw new IllegalArgumentException(
          ("slice limits: copies=%d bytes=%d firstBytes=%d (at most bytes) inFlight=%d"
                  + " bytesInFlight=%d, each at least 1")
              .formatted(copies, bytes, firstBytes, inFlight, bytesInFlight));
    }
  }

  /** For a device to which strided copies are nothing better, with slices bounded by number. */
  public SliceLimits(int copies, long bytes, int inFlight) {
    this(copies, bytes, bytes, inFlight, bytes * inFlight, 0);
  }

  /** Whether rows of so many bytes, at this distance, are better moved as one strided copy. */
  public boolean strided(long width, long pitch) {
    return width <= stridedUpTo && pitch <= STRIDED_PITCH_UP_TO;
  }

  /** How long a slice may be while so much is on its way. */
  public long bytesOfNext(long onTheirWay) {
    return Math.max(firstBytes, Math.min(bytes, onTheirWay));
  }
}
