package io.flexkv.cache;

/** How a rank's part of a job ended. */
public enum JobStatus {
  /** A load delivered every block; a save brought in every block that it copied. */
  OK,
  /** The job is known and (this part of) it failed. */
  FAILED,
  /** Nothing (more) is known of the job: its plan never came, or its instance has ended. */
  VOID
}
