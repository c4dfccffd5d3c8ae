package io.flexkv.transfer;

import java.util.BitSet;
import org.jspecify.annotations.Nullable;

/**
 * A job on its way through one {@link CopyAgent}: how far it is submitted, how far copied, and
 * whether it has to end early. Owned by the agent's thread.
 */
final class JobState {
  final TransferJob job;
  private final long arrivedNanos;
  private long fenceNanos;
  private long firstSliceNanos;
  private long lastSliceNanos;

  /** Next byte to submit: block index in the job, region, offset in the region. */
  int block;

  int region;
  long offset;

  /** Slices on their way. */
  int inFlight;

  /** Blocks whose slices have all ended. */
  int blocksCopied;

  long bytesCopied;

  /** Set once the job shall submit nothing more; it ends when {@link #inFlight} is 0. */
  Completion.@Nullable Status end;

  @Nullable String cause;

  /** Its slices were given up, not seen to end. */
  boolean undrained;

  JobState(TransferJob job, long arrivedNanos) {
    this.job = job;
    this.arrivedNanos = arrivedNanos;
  }

  /** Its fence is reached. */
  void fenceReachedAt(long nanos) {
    fenceNanos = nanos;
    firstSliceNanos = nanos;
    lastSliceNanos = nanos;
  }

  /** One more slice goes to the device. */
  void sliceAt(long nanos) {
    if (inFlight == 0 && bytesCopied == 0) {
      firstSliceNanos = nanos;
    }
    lastSliceNanos = nanos;
  }

  JobStages stages(long endedNanos) {
    return new JobStages(
        job.jobId(), arrivedNanos, fenceNanos, firstSliceNanos, lastSliceNanos, endedNanos);
  }

  boolean allSubmitted() {
    return block == job.gpuBlocks().length;
  }

  /** Blocks that may be submitted now; never goes back. */
  int limit() {
    return Math.min(job.gpuBlocks().length, job.available().count());
  }

  /** Whether a slice can be made: not all is submitted, and the next block is in its slot. */
  boolean canSubmit() {
    return block < limit();
  }

  /** Whether the blocks that it waits for will not come. */
  boolean isCut() {
    // In this order: once cut, the count is final.
    return job.available().isCut() && !canSubmit() && !allSubmitted();
  }

  /** Ends the job early; the first reason stays. */
  void endAs(Completion.Status status, String reason) {
    if (end == null) {
      end = status;
      cause = reason;
    }
  }

  /** Whether nothing more will be submitted and nothing is on its way. */
  boolean over() {
    return inFlight == 0 && (end != null || allSubmitted());
  }

  /** After one that was not drained: its copies have ended, whatever they brought is not used. */
  Completion lateCompletion(long nowNanos) {
    return new Completion(
        job.jobId(),
        job.part(),
        job.direction(),
        Completion.Status.FAILED,
        new BitSet(),
        bytesCopied,
        nowNanos - arrivedNanos,
        true,
        "its copies have ended after all");
  }

  Completion completion(long nowNanos, boolean drained) {
    BitSet ok = new BitSet(job.gpuBlocks().length);
    ok.set(0, blocksCopied);
    GenerationCheck generations = job.generations();
    if (generations != null) {
      generations.clearStale(job.gpuBlocks(), ok);
    }
    return new Completion(
        job.jobId(),
        job.part(),
        job.direction(),
        end == null ? Completion.Status.OK : end,
        ok,
        bytesCopied,
        nowNanos - arrivedNanos,
        drained,
        cause);
  }
}
