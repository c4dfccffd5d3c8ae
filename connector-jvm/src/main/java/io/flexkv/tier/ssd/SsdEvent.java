package io.flexkv.tier.ssd;

import org.jspecify.annotations.Nullable;

/** News of the store, taken by {@link SsdStore#poll}. */
public sealed interface SsdEvent {

  /** More leading blocks of a read are ready; intermediate steps may have been skipped. */
  record Progress(SsdJob job, int ready) implements SsdEvent {}

  /**
   * The job has ended; comes exactly once for each accepted job.
   *
   * @param ready of a read: leading blocks in memory and verified, whatever the outcome
   * @param drained whether no disk access can touch its slots and addresses any more. If not (a
   *     stalled disk), leave both alone until {@link Drained}
   * @param badSlot slot whose block is gone, since its bytes did not verify or cannot be read, or
   *     {@link SsdStore#FULL} if there is none: drop the block, or every later read of it fails
   *     too, and free the slot as any other (where the disk is to blame, nobody gets it again)
   * @param cause why not {@link Outcome#DONE}, null if it is
   */
  record Ended(
      SsdJob job, Outcome outcome, int ready, boolean drained, long badSlot, @Nullable String cause)
      implements SsdEvent {}

  /** The last access of a job that had ended without being drained has come back. */
  record Drained(SsdJob job) implements SsdEvent {}

  /**
   * A {@link SsdStore#resetNamespace} has been carried out.
   *
   * @param durable whether it survives a restart; if not, no directory could be written, and the
   *     caller must not tell anybody that the reset is complete
   */
  record ResetDone(
      long digestHi, long digestLo, int generation, boolean durable, @Nullable String cause)
      implements SsdEvent {}

  /**
   * A directory has been taken out: its slots cannot be read or written any more. Drop what lies in
   * it ({@link SsdStore#directoryOf} tells), free the slots, then say {@link SsdStore#forgotten}.
   */
  record DirectoryLost(int directory, String path, String cause) implements SsdEvent {}

  /** How a job ended. */
  enum Outcome {
    /** All blocks. */
    DONE,
    /** A mismatch, an error of the disk, a lost directory, or the deadline. */
    FAILED,
    CANCELLED
  }
}
