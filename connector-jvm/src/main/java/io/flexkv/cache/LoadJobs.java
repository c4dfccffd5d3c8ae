package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import org.jspecify.annotations.Nullable;

/**
 * Loads, from plan to end. A load pins the deepest of its blocks; its ancestors, and with them all
 * its slots, then stay. A reset takes the blocks away from under it: the slots are held in the pool
 * until its copies have ended, and it ends as failed.
 */
final class LoadJobs {
  private final BlockTree tree;
  private final SlotPool pool;
  private final JobTable jobs;
  private final CacheEffects effects;
  private final Counters counters;
  private final KeyProbe probe = new KeyProbe();

  LoadJobs(BlockTree tree, SlotPool pool, JobTable jobs, CacheEffects effects, Counters counters) {
    this.tree = tree;
    this.pool = pool;
    this.jobs = jobs;
    this.effects = effects;
    this.counters = counters;
  }

  /** Opens a load, or answers null if one of its blocks cannot be served. */
  @Nullable LoadJob plan(
      int instanceId,
      Namespace namespace,
      RequestChain chain,
      long jobId,
      int group,
      int firstBlock,
      int[] gpuBlocks,
      int parts,
      long now) {
    KeySalt salt = namespace.salt(group);
    int last = firstBlock + gpuBlocks.length - 1;
    int deepest = tree.find(probe.set(salt, chain.hashHi(last), chain.hashLo(last)));
    if (deepest == NONE || !tree.isReady(deepest)) {
      return null;
    }
    long[] slots = new long[gpuBlocks.length];
    int entry = deepest;
    for (int i = slots.length - 1; i >= 0; i--) {
      // Servable, since what is below it is; but is it what this chain has at this place?
      int block = firstBlock + i;
      if (entry == NONE
          || !tree.hasKey(entry, probe.set(salt, chain.hashHi(block), chain.hashLo(block)))) {
        return null;
      }
      slots[i] = tree.slot(entry);
      entry = tree.parent(entry);
    }
    tree.pin(deepest);
    LoadJob job = new LoadJob(jobId, instanceId, namespace, parts, now, gpuBlocks, slots, deepest);
    jobs.add(job);
    counters.loadsPlanned++;
    return job;
  }

  void go(LoadJob job, int part) {
    job.start(part);
    jobs.partLeft(job);
    effects.startLoad(job.id, part, job.gpuBlocks, job.slots);
  }

  void done(LoadJob job, int part, boolean ok) {
    job.end(part);
    boolean good = ok && !job.stale && job.failure == JobStatus.FAILED;
    if (good) {
      counters.loadPartsOk++;
    } else {
      counters.loadPartsFailed++;
    }
    effects.jobDone(job.id, part, good ? JobStatus.OK : job.failure);
    settle(job);
  }

  /** Ends a part that has no go yet. */
  void fail(LoadJob job, int part) {
    endWaiting(job, part);
    settle(job);
  }

  /** Ends all parts that have no go yet. */
  void failWaiting(LoadJob job) {
    for (int part = 0; part < job.parts(); part++) {
      if (job.waits(part)) {
        endWaiting(job, part);
      }
    }
    settle(job);
  }

  /** The blocks are about to go by a reset. */
  void reset(LoadJob job) {
    if (!job.stale) {
      job.stale = true;
      for (long slot : job.slots) {
        pool.hold(slot);
      }
      tree.unpin(job.pinned);
      job.pinned = NONE;
    }
    failWaiting(job);
  }

  private void endWaiting(LoadJob job, int part) {
    job.endSilently(part);
    jobs.partLeft(job);
    counters.loadPartsFailed++;
  }

  private void settle(LoadJob job) {
    if (!job.over() || jobs.get(job.id) != job) {
      return;
    }
    jobs.remove(job);
    if (job.pinned != NONE) {
      tree.unpin(job.pinned);
    }
    if (job.stale) {
      for (long slot : job.slots) {
        pool.letGo(slot);
      }
    }
  }
}
