package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.HOST_THERE;

import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Loads, from plan to end. A load pins the deepest of its blocks; its ancestors, and with them all
 * its slots, then stay. Blocks that are still being read from the SSD have their slots already: the
 * load begins with those that are there, and is cut short if the rest does not come. A reset takes
 * the blocks away from under it: the slots are held in the pool until its copies have ended, and it
 * ends as failed.
 */
final class LoadJobs {
  private final BlockTree tree;
  private final SlotPool pool;
  private final Promotions promotions;
  private final JobTable jobs;
  private final CacheEffects effects;
  private final Counters counters;
  private final KeyProbe probe = new KeyProbe();

  LoadJobs(
      BlockTree tree,
      SlotPool pool,
      Promotions promotions,
      JobTable jobs,
      CacheEffects effects,
      Counters counters) {
    this.tree = tree;
    this.pool = pool;
    this.promotions = promotions;
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
    Copies copies = tree.copies();
    long[] slots = new long[gpuBlocks.length];
    int[] entries = new int[gpuBlocks.length];
    boolean whole = true;
    int entry = deepest;
    for (int i = slots.length - 1; i >= 0; i--) {
      // Servable, since what is below it is; but is it what this chain has at this place?
      int block = firstBlock + i;
      if (entry == NONE
          || !tree.hasKey(entry, probe.set(salt, chain.hashHi(block), chain.hashLo(block)))
          || copies.inHost(entry) == HOST_NONE) {
        return null;
      }
      whole &= copies.inHost(entry) == HOST_THERE;
      entries[i] = entry;
      slots[i] = tree.slot(entry);
      entry = tree.parent(entry);
    }
    tree.pin(deepest);
    LoadJob job = new LoadJob(jobId, instanceId, namespace, parts, now, gpuBlocks, slots, deepest);
    if (!whole) {
      job.entries = entries;
      job.available = new AvailableBlocks(0);
      promotions.attach(job);
      advance(job);
    }
    jobs.add(job);
    counters.loadsPlanned++;
    return job;
  }

  /**
   * A read has brought blocks, or has ended; the loads that wait for it go on, or are cut short.
   */
  void readMoved(Promotion read, boolean ended) {
    for (LoadJob job : List.copyOf(read.loads)) {
      advance(job);
      if (ended && read.failed && read.loads.contains(job)) {
        cut(job);
      }
    }
  }

  private void advance(LoadJob job) {
    int count = job.available.count();
    while (count < job.entries.length && tree.copies().inHost(job.entries[count]) == HOST_THERE) {
      count++;
    }
    job.available.raiseTo(count);
    if (count == job.entries.length) {
      promotions.left(job);
      job.entries = new int[0];
    }
  }

  /** The rest of its blocks does not come: it keeps, and copies, what is there. */
  private void cut(LoadJob job) {
    counters.loadsCut++;
    int count = job.available.count();
    int last = count == 0 ? NONE : job.entries[count - 1];
    giveUpRest(job);
    if (last != NONE) {
      tree.pin(last);
    }
    tree.unpin(job.pinned);
    job.pinned = last;
    failWaiting(job);
  }

  private void giveUpRest(LoadJob job) {
    if (job.available != AvailableBlocks.ALL) {
      job.available.cut();
    }
    promotions.left(job);
    job.entries = new int[0];
  }

  void go(LoadJob job, int part) {
    job.start(part);
    jobs.partLeft(job);
    effects.startLoad(job.id, part, job.gpuBlocks, job.slots, job.available);
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

  /** The blocks are about to go, by a reset or because the SSD lost some of them. */
  void reset(LoadJob job) {
    if (!job.stale) {
      job.stale = true;
      giveUpRest(job);
      for (int i = 0; i < touchable(job); i++) {
        pool.hold(job.slots[i]);
      }
      if (job.pinned != NONE) {
        tree.unpin(job.pinned);
        job.pinned = NONE;
      }
    }
    failWaiting(job);
  }

  /** Its leading blocks whose slots a copy of it may touch; no more once it is cut. */
  private static int touchable(LoadJob job) {
    return Math.min(job.slots.length, job.available.count());
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
    promotions.left(job);
    job.entries = new int[0];
    if (job.pinned != NONE) {
      tree.unpin(job.pinned);
    }
    if (job.stale) {
      for (int i = 0; i < touchable(job); i++) {
        pool.letGo(job.slots[i]);
      }
    }
  }
}
