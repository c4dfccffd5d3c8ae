package io.flexkv.device;

/**
 * What one slice may hold so that it is at most 2 ms of work, and how many may be on their way.
 *
 * @param copies descriptors of one slice
 * @param bytes of one slice
 * @param inFlight slices submitted and not complete: enough to keep the link busy, and together no
 *     more than 2 ms, because a revoked load waits for all of them
 */
public record SliceLimits(int copies, long bytes, int inFlight) {
  public SliceLimits {
    if (copies < 1 || bytes < 1 || inFlight < 1) {
      throw new IllegalArgumentException(
          "slice limits: copies=%d bytes=%d inFlight=%d, each at least 1"
              .formatted(copies, bytes, inFlight));
    }
  }
}
