package io.flexkv.transfer;

import io.flexkv.device.Direction;
import java.util.BitSet;
import org.jspecify.annotations.Nullable;

/**
 * How one rank's part of a job ended. Posted exactly once a job, and only when none of its copies
 * can touch memory any more, unless {@code drained} says otherwise: then a second one, which is
 * drained, follows if its copies end after all.
 *
 * @param blocksOk indices into the job's blocks: copied whole, and for saves with the generation
 *     still the planned one
 * @param bytes copied, whole blocks or not
 * @param nanos from the job's arrival to its end
 * @param drained false only where a wedged device was given up: copies may still touch the host
 *     slots and the device blocks, so neither may be used for anything else before the second one
 * @param cause why not OK, null if OK
 */
public record Completion(
    long jobId,
    int part,
    Direction direction,
    Status status,
    BitSet blocksOk,
    long bytes,
    long nanos,
    boolean drained,
    @Nullable String cause) {
  /** How it ended. */
  public enum Status {
    /** All copies done. A save's blocks may still have been dropped: see {@code blocksOk}. */
    OK,
    /** A copy failed, the deadline passed, or the device went away. */
    FAILED,
    /** Taken back by the worker or by {@link Mover#revoke}. */
    REVOKED
  }
}
