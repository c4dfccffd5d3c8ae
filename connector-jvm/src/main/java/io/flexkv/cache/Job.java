package io.flexkv.cache;

import java.util.BitSet;

/**
 * A load or a save of one request in one step, in as many parts as ranks take part. A part waits
 * for its go, runs, and is answered when it has ended; or it ends without a go, and is answered
 * when that comes.
 */
abstract sealed class Job permits LoadJob, SaveAttempt {
  private static final byte WAITING = 0;
  private static final byte RUNNING = 1;
  private static final byte SILENT = 2;
  private static final byte ANSWERED = 3;

  final long id;
  final int instanceId;
  final Namespace namespace;
  final long plannedAt;
  private final byte[] states;
  private int waiting;
  private int running;

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
    return part >= 0 && part < states.length && states[part] == RUNNING;
  }

  /** Parts without a go. */
  final int waiting() {
    return waiting;
  }

  /** Parts whose copy is not reported yet. */
  final int running() {
    return running;
  }

  /** Whether a part ended without a go, and so without an answer. */
  final boolean isSilent(int part) {
    return part >= 0 && part < states.length && states[part] == SILENT;
  }

  /** Parts that got their answer. */
  final BitSet answered() {
    BitSet result = new BitSet(states.length);
    for (int part = 0; part < states.length; part++) {
      result.set(part, states[part] == ANSWERED);
    }
    return result;
  }

  final boolean over() {
    return waiting == 0 && running == 0;
  }

  final void start(int part) {
    move(part, WAITING, RUNNING);
    waiting--;
    running++;
  }

  /** A running part has ended and gets its answer. */
  final void end(int part) {
    move(part, RUNNING, ANSWERED);
    running--;
  }

  /** A waiting part ends without a go. */
  final void endSilently(int part) {
    move(part, WAITING, SILENT);
    waiting--;
  }

  /** The go of such a part has come and gets its answer. */
  final void answer(int part) {
    move(part, SILENT, ANSWERED);
  }

  private void move(int part, byte from, byte to) {
    if (states[part] != from) {
      throw new IllegalStateException(
          "job %d part %d is in state %d, expected %d".formatted(id, part, states[part], from));
    }
    states[part] = to;
  }
}
