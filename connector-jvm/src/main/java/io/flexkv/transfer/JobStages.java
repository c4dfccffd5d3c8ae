package io.flexkv.transfer;

/**
 * When one job passed each stage of a mover, on the clock of {@link System#nanoTime}; on Linux that
 * is CLOCK_MONOTONIC, which every process of the machine reads alike. So a test can lay these
 * beside what the engine saw and name every part of a load's time.
 *
 * @param jobId the protocol's id, 0 = no job has ended as OK yet
 * @param arrived the mover's thread has taken it
 * @param fenceReached its fence was seen to be reached, or it has none
 * @param firstSlice its first slice was handed to the device; {@code fenceReached} where it has
 *     none
 * @param lastSlice its last slice was handed to the device; likewise
 * @param ended all of its slices were seen to have ended
 */
public record JobStages(
    long jobId, long arrived, long fenceReached, long firstSlice, long lastSlice, long ended) {
  /** No job yet. */
  static final JobStages NONE = new JobStages(0, 0, 0, 0, 0, 0);
}
