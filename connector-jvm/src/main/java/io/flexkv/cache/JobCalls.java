package io.flexkv.cache;

import java.util.BitSet;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/**
 * What clients and movers say of jobs: plans, gos that may come before them, what is taken back,
 * what has ended, and who has gone. Checks what is said, and has {@link LoadJobs} and {@link
 * SaveAttempts} do it; see {@link CacheCore} for each call.
 */
final class JobCalls {
  private final CacheConfig config;
  private final JobTable jobs;
  private final EndedJobs ended;
  private final LoadJobs loads;
  private final SaveAttempts saves;
  private final Leases leases;
  private final SsdWrites writes;
  private final CacheEffects effects;
  private final Counters counters;
  private final LongSupplier nanoTime;
  private final ParkedGos parked;

  JobCalls(
      CacheConfig config,
      JobTable jobs,
      EndedJobs ended,
      LoadJobs loads,
      SaveAttempts saves,
      Leases leases,
      SsdWrites writes,
      CacheEffects effects,
      Counters counters,
      LongSupplier nanoTime) {
    this.config = config;
    this.jobs = jobs;
    this.ended = ended;
    this.loads = loads;
    this.saves = saves;
    this.leases = leases;
    this.writes = writes;
    this.effects = effects;
    this.counters = counters;
    this.nanoTime = nanoTime;
    this.parked = new ParkedGos(config.maxParkedGos());
  }

  /** Gos that wait for their plan. */
  int parked() {
    return parked.size();
  }

  boolean planLoad(
      @Nullable Instance instance,
      long jobId,
      long requestId,
      int groupId,
      int firstBlock,
      int[] gpuBlocks,
      int requiredParts) {
    if (jobs.knows(jobId)) {
      counters.ignoredCalls++;
      return jobs.get(jobId) instanceof LoadJob;
    }
    if (requiredParts < 1 || requiredParts > config.maxParts()) {
      counters.loadsRefused++;
      return false;
    }
    BitSet gone = parked.take(jobId);
    RequestChain chain = instance == null ? null : instance.chain(requestId);
    LoadJob job = null;
    if (instance != null
        && chain != null
        && plannable(instance.namespace, chain, groupId, firstBlock, gpuBlocks.length)) {
      job =
          loads.plan(
              instance.id,
              instance.namespace,
              chain,
              jobId,
              groupId,
              firstBlock,
              gpuBlocks,
              requiredParts,
              nanoTime.getAsLong());
    }
    if (chain != null) {
      leases.end(chain, groupId);
    }
    if (job == null) {
      counters.loadsRefused++;
      ended.refuse(jobId, requiredParts, JobStatus.FAILED, gone);
      return false;
    }
    startParked(job, gone);
    return true;
  }

  void planSave(
      @Nullable Instance instance,
      long jobId,
      long requestId,
      int groupId,
      int firstBlock,
      int[] gpuBlocks,
      long[] generations) {
    if (instance == null || jobs.knows(jobId)) {
      counters.ignoredCalls++;
      return;
    }
    BitSet gone = parked.take(jobId);
    Namespace namespace = instance.namespace;
    RequestChain chain = instance.chain(requestId);
    DropReason refusal =
        saveRefusal(namespace, chain, groupId, firstBlock, gpuBlocks.length, generations.length);
    SavePlan plan =
        new SavePlan(
            instance.id,
            namespace,
            chain == null ? new RequestChain(0) : chain,
            jobId,
            groupId,
            firstBlock,
            gpuBlocks,
            generations,
            nanoTime.getAsLong(),
            gone);
    if (refusal != null) {
      saves.refuse(plan, 0, refusal);
      return;
    }
    namespace.speed.planned(plan.chain, groupId, firstBlock, gpuBlocks.length, plan.now);
    SaveAttempt attempt = saves.plan(plan);
    if (attempt != null) {
      startParked(attempt, gone);
    }
    writes.freeAhead(namespace);
  }

  boolean go(long jobId, int part) {
    Job job = jobs.get(jobId);
    if (job != null) {
      return start(job, part);
    }
    if (ended.knows(jobId) || part < 0 || part >= config.maxParts()) {
      boolean owed = ended.answer(jobId, part);
      counters.ignoredCalls += owed ? 0 : 1;
      return owed;
    }
    if (!parked.park(jobId, part, nanoTime.getAsLong())) {
      effects.jobDone(jobId, part, JobStatus.VOID);
    }
    return true;
  }

  boolean revokeLoad(long jobId, int part) {
    Job job = jobs.get(jobId);
    if (job instanceof LoadJob load) {
      if (load.runs(part)) {
        return true;
      }
      if (load.waits(part)) {
        loads.fail(load, part);
      }
      if (jobs.get(jobId) == null) {
        ended.answer(jobId, part);
      } else if (load.isSilent(part)) {
        answer(load, part);
      }
    } else if (ended.knows(jobId)) {
      ended.answer(jobId, part);
    } else if (job == null) {
      parked.unpark(jobId, part);
      effects.jobDone(jobId, part, JobStatus.VOID);
    }
    return false;
  }

  void loadPartDone(long jobId, int part, boolean ok) {
    if (jobs.get(jobId) instanceof LoadJob load && load.runs(part)) {
      loads.done(load, part, ok);
    } else {
      counters.ignoredCalls++;
    }
  }

  void savePartDone(long jobId, int part, boolean[] blockOk) {
    if (jobs.get(jobId) instanceof SaveAttempt save && save.runs(part)) {
      saves.done(save, part, blockOk);
      saves.settleEmptied();
      writes.pump();
    } else {
      counters.ignoredCalls++;
    }
  }

  void abandonPart(int instanceId, int part) {
    for (Job job : jobs.where(job -> job.instanceId == instanceId && job.waits(part))) {
      switch (job) {
        case LoadJob load -> loads.fail(load, part);
        case SaveAttempt save -> saves.lose(save, DropReason.PART_ABANDONED);
      }
    }
    saves.settleEmptied();
  }

  /** Its jobs end as VOID. */
  void instanceGone(int instanceId) {
    for (Job job : jobs.where(job -> job.instanceId == instanceId)) {
      job.failure = JobStatus.VOID;
      switch (job) {
        case LoadJob load -> loads.failWaiting(load);
        case SaveAttempt save -> saves.lose(save, DropReason.INSTANCE_CLOSED);
      }
    }
    saves.settleEmptied();
  }

  /** All blocks of a namespace are about to go: jobs let go of them. */
  void blocksGo(Namespace namespace) {
    for (Job job : jobs.where(job -> job.namespace == namespace)) {
      switch (job) {
        case LoadJob load -> loads.reset(load);
        case SaveAttempt save -> saves.reset(save);
      }
    }
    saves.settleEmptied();
  }

  /** Ends what has waited for too long. */
  void tick(long now) {
    for (long jobId : parked.expired(now, config.parkedNanos())) {
      BitSet parts = parked.take(jobId);
      if (parts != null) {
        parts.stream().forEach(part -> effects.jobDone(jobId, part, JobStatus.VOID));
      }
    }
    for (Job job : jobs.overdue(now, config.planNanos())) {
      switch (job) {
        case LoadJob load -> loads.failWaiting(load);
        case SaveAttempt save -> saves.lose(save, DropReason.NO_GO);
      }
    }
    saves.settleEmptied();
  }

  private boolean plannable(
      Namespace namespace, RequestChain chain, int group, int firstBlock, int count) {
    return namespace.hasGroup(group)
        && chain.generation == namespace.generation()
        && count > 0
        && firstBlock >= 0
        && count <= chain.blocks() - firstBlock
        && !jobs.isFull();
  }

  private @Nullable DropReason saveRefusal(
      Namespace namespace,
      @Nullable RequestChain chain,
      int group,
      int firstBlock,
      int count,
      int generations) {
    if (chain == null || firstBlock < 0 || count > chain.blocks() - firstBlock) {
      return DropReason.UNKNOWN_CHAIN;
    }
    if (chain.generation != namespace.generation()) {
      return DropReason.STALE_GENERATION;
    }
    return plannable(namespace, chain, group, firstBlock, count) && generations == count
        ? null
        : DropReason.REFUSED;
  }

  private void startParked(Job job, @Nullable BitSet gone) {
    if (gone != null) {
      gone.stream().forEach(part -> start(job, part));
    }
  }

  private boolean start(Job job, int part) {
    if (job.isSilent(part)) {
      answer(job, part);
      return true;
    }
    if (!job.waits(part)) {
      counters.ignoredCalls++;
      return false;
    }
    switch (job) {
      case LoadJob load -> loads.go(load, part);
      case SaveAttempt save -> saves.go(save, part);
    }
    return true;
  }

  private void answer(Job job, int part) {
    job.answer(part);
    effects.jobDone(job.id, part, job.failure);
  }
}
