package io.flexkv.cache;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/** The open jobs by id, in the order of their plans. Those that end are handed to EndedJobs. */
final class JobTable {
  private final Map<Long, Job> open = new LinkedHashMap<>();

  /** Those of them with a part that waits for its go. */
  private final Map<Long, Job> awaiting = new LinkedHashMap<>();

  private final EndedJobs ended;
  private final int maxOpen;
  private int loads;

  JobTable(int maxOpen, EndedJobs ended) {
    this.maxOpen = maxOpen;
    this.ended = ended;
  }

  boolean isFull() {
    return open.size() >= maxOpen;
  }

  int loads() {
    return loads;
  }

  int saves() {
    return open.size() - loads;
  }

  @Nullable Job get(long jobId) {
    return open.get(jobId);
  }

  /** Whether this id is taken, by an open job or one that ended lately. */
  boolean knows(long jobId) {
    return open.containsKey(jobId) || ended.knows(jobId);
  }

  void add(Job job) {
    open.put(job.id, job);
    awaiting.put(job.id, job);
    if (job instanceof LoadJob) {
      loads++;
    }
  }

  /** A part of this job got its go, or ended without. */
  void partLeft(Job job) {
    if (job.waiting() == 0) {
      awaiting.remove(job.id);
    }
  }

  void remove(Job job) {
    open.remove(job.id);
    awaiting.remove(job.id);
    if (job instanceof LoadJob) {
      loads--;
    }
    ended.add(job);
  }

  List<Job> where(Predicate<Job> condition) {
    List<Job> result = new ArrayList<>();
    for (Job job : open.values()) {
      if (condition.test(job)) {
        result.add(job);
      }
    }
    return result;
  }

  /** Jobs that have waited for a go for too long. */
  List<Job> overdue(long now, long planNanos) {
    List<Job> result = new ArrayList<>();
    for (Job job : awaiting.values()) {
      if (now - job.plannedAt < planNanos) {
        break;
      }
      result.add(job);
    }
    return result;
  }
}
