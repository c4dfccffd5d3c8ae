package io.flexkv.cache;

import java.util.ArrayDeque;
import java.util.BitSet;
import java.util.HashMap;
import java.util.Map;
import java.util.Queue;
import org.jspecify.annotations.Nullable;

/**
 * Jobs that ended lately, the latest so many: what comes late for them is ignored, but a part that
 * ended before its go came is told so when it comes.
 */
final class EndedJobs {
  /** Parts below {@code parts} that are not in {@code answered} are owed an answer. */
  private record Ended(JobStatus status, int parts, BitSet answered) {}

  private static final Ended ALL_ANSWERED = new Ended(JobStatus.VOID, 0, new BitSet());

  private final Map<Long, Ended> byId = new HashMap<>();
  private final Queue<Long> inOrder = new ArrayDeque<>();
  private final CacheEffects effects;
  private final int max;

  EndedJobs(int max, CacheEffects effects) {
    this.max = max;
    this.effects = effects;
  }

  boolean knows(long jobId) {
    return byId.containsKey(jobId);
  }

  /** Remembers a job whose parts have all ended. */
  void add(Job job) {
    BitSet answered = job.answered();
    boolean all = answered.cardinality() == job.parts();
    put(job.id, all ? ALL_ANSWERED : new Ended(job.failure, job.parts(), answered));
  }

  /** Ends a job at its plan: answers the gos that were parked, and later ones when they come. */
  void refuse(long jobId, int parts, JobStatus status, @Nullable BitSet gone) {
    put(jobId, new Ended(status, parts, new BitSet()));
    if (gone != null) {
      gone.stream().forEach(part -> answer(jobId, part));
    }
  }

  /** A go came for a job that has ended. Returns whether it was owed an answer (and got it). */
  boolean answer(long jobId, int part) {
    Ended ended = byId.get(jobId);
    if (ended == null || part < 0 || part >= ended.parts || ended.answered.get(part)) {
      return false;
    }
    ended.answered.set(part);
    effects.jobDone(jobId, part, ended.status);
    return true;
  }

  private void put(long jobId, Ended ended) {
    if (byId.put(jobId, ended) != null) {
      throw new IllegalStateException("job " + jobId + " ends twice");
    }
    inOrder.add(jobId);
    if (inOrder.size() > max) {
      byId.remove(inOrder.remove());
    }
  }
}
