package io.flexkv.device;

/**
 * What one slice may hold so that it is at most 2 ms of work, and how much may be on its way.
 *
 * @param copies descriptors of one slice
 * @param bytes of one slice
 * @param inFlight slices submitted and not complete
 * @param bytesInFlight of all of them: enough to keep the link busy, and no more than 2 ms, because
 *     a revoked load waits for them. A slice is submitted while less than this is on its way
 * @param stridedWidth rows up to this many bytes are better moved as one strided copy than one by
 *     one; 0 where they never are
 */
public record SliceLimits(
    int copies, long bytes, int inFlight, long bytesInFlight, long stridedWidth) {
  public SliceLimits {
    if (copies < 1 || bytes < 1 || inFlight < 1 || bytesInFlight < 1 || stridedWidth < 0) {
      throw new IllegalArgumentException(
          ("slice limits: copies=%d bytes=%d inFlight=%d bytesInFlight=%d, each at least 1;"
                  + " stridedWidth=%d, at least 0")
              .formatted(copies, bytes, inFlight, bytesInFlight, stridedWidth));
    }
  }

  /** For a device to which strided copies are nothing better, with slices bounded by number. */
  public SliceLimits(int copies, long bytes, int inFlight) {
    this(copies, bytes, inFlight, bytes * inFlight, 0);
  }
}
