package io.flexkv.cache;

/**
 * A load or a save of one request in one step, in as many parts as ranks take part. A part waits
 * for its go, is started, and ends; each of these once.
 */
abstract sealed class Job permits LoadJob, SaveAttempt {
  private static final byte WAITING = 0;
  private static final byte STARTED = 1;
  private static final byte ENDED = 2;

  final long id;
  final int instanceId;
  final Namespace namespace;
  final long plannedAt;
  private final byte[] states;
  private int waiting;
  private int started;

  /** What a part that is not OK ends as: VOID once the instance has gone. */
  JobStatus failure = JobStatus.FAILED;

  Job(long id, int instanceId, Namespace namespace, int parts, long plannedAt) {
    this.id = id;
    this.instanceId = instanceId;
    this.namespace = namespace;
    this.plannedAt = plannedAt;
    this.states = new byte[parts];
    this.waiting = parts;
  }

  final int parts() {
    return states.length;
  }

  final boolean waits(int part) {
    return part >= 0 && part < states.length && states[part] == WAITING;
  }

  final boolean runs(int part) {
    return part >= 0 && part < states.length && states[part] == STARTED;
  }

  /** Parts without a go. */
  final int waiting() {
    return waiting;
  }

  /** Parts whose copy is not reported yet. */
  final int running() {
    return started;
  }

  final boolean over() {
    return waiting == 0 && started == 0;
  }

  final void start(int part) {
    if (!waits(part)) {
      throw new IllegalStateException("job " + id + " part " + part + " does not wait");
    }
    states[part] = STARTED;
    waiting--;
    started++;
  }

  final void end(int part) {
    switch (states[part]) {
      case WAITING -> waiting--;
      case STARTED -> started--;
      default -> throw new IllegalStateException("job " + id + " part " + part + " has ended");
    }
    states[part] = ENDED;
  }
}
