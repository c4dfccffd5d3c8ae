package io.flexkv.transfer;

import io.flexkv.cache.AvailableBlocks;
import io.flexkv.device.Direction;
import org.jspecify.annotations.Nullable;

/**
 * One rank's part of a job: copy these blocks from or to these host addresses.
 *
 * @param jobId the protocol's id; what the revoke word is compared with
 * @param part the rank's part number, handed back in the completion
 * @param gpuBlocks block numbers, each within the layout; kept, not copied
 * @param hostAddresses for each block the address of this part within its slot; the block's regions
 *     follow one another there; kept, not copied
 * @param fence no copy before it is reached; null = at once
 * @param revoke read between slices
 * @param deadlineNanos on the mover's clock ({@link System#nanoTime}); later it ends as FAILED
 * @param generations what to compare after the copies; null for loads
 * @param available how many leading blocks may be copied; a load's may grow while it runs
 */
@SuppressWarnings("ArrayRecordComponent") // made for this job and never changed
public record TransferJob(
    long jobId,
    int part,
    Direction direction,
    int[] gpuBlocks,
    long[] hostAddresses,
    @Nullable FencePoint fence,
    RevokeWord revoke,
    long deadlineNanos,
    @Nullable GenerationCheck generations,
    AvailableBlocks available) {
  /** Blocks that one job may have. */
  public static final int MAX_BLOCKS = 1 << 20;

  public TransferJob {
    if (gpuBlocks.length != hostAddresses.length || gpuBlocks.length > MAX_BLOCKS) {
      throw new IllegalArgumentException(
          "job %x: %d blocks, %d host addresses, at most %d"
              .formatted(jobId, gpuBlocks.length, hostAddresses.length, MAX_BLOCKS));
    }
    if (generations != null && generations.expected().length != gpuBlocks.length) {
      throw new IllegalArgumentException(
          "job %x: %d blocks, %d generations"
              .formatted(jobId, gpuBlocks.length, generations.expected().length));
    }
  }

  /** A job whose blocks may all be copied from the start. */
  public TransferJob(
      long jobId,
      int part,
      Direction direction,
      int[] gpuBlocks,
      long[] hostAddresses,
      @Nullable FencePoint fence,
      RevokeWord revoke,
      long deadlineNanos,
      @Nullable GenerationCheck generations) {
    this(
        jobId,
        part,
        direction,
        gpuBlocks,
        hostAddresses,
        fence,
        revoke,
        deadlineNanos,
        generations,
        AvailableBlocks.ALL);
  }
}
