package io.flexkv.transfer;

/** What a mover has done since its start. */
public record MoverCounters(Side load, Side save) {
  /**
   * One direction.
   *
   * @param bytes copied
   * @param slices ended
   * @param busyNanos time in which at least one slice was on its way
   * @param jobsOk jobs by how they ended
   * @param last stages of the job that ended as OK last
   */
  public record Side(
      long bytes,
      long slices,
      long busyNanos,
      long jobsOk,
      long jobsFailed,
      long jobsRevoked,
      JobStages last) {}
}
