package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Saves, from plan to end. A plan brings in those blocks of a chain that are absent, as far as the
 * pool has room: always a prefix of them, each under its parent. A block whose part is lost goes at
 * once with all that is below it, whoever brings that in.
 */
final class SaveAttempts {
  private final BlockTree tree;
  private final SlotPool pool;
  private final Evictor evictor;
  private final JobTable jobs;
  private final EndedJobs ended;
  private final AttemptTable attempts;
  private final CacheEffects effects;
  private final Counters counters;
  private final KeyProbe probe = new KeyProbe();

  SaveAttempts(
      BlockTree tree,
      SlotPool pool,
      Evictor evictor,
      JobTable jobs,
      EndedJobs ended,
      AttemptTable attempts,
      CacheEffects effects,
      Counters counters) {
    this.tree = tree;
    this.pool = pool;
    this.evictor = evictor;
    this.jobs = jobs;
    this.ended = ended;
    this.attempts = attempts;
    this.effects = effects;
    this.counters = counters;
  }

  /** Opens an attempt, or answers null (and ends the job) if there is nothing to copy. */
  @Nullable SaveAttempt plan(SavePlan plan) {
    int planned = plan.gpuBlocks.length;
    int parent = NONE;
    if (plan.firstBlock > 0) {
      parent = tree.find(key(plan, plan.firstBlock - 1));
      if (parent == NONE) {
        refuse(plan, 0, DropReason.PARENT_MISSING);
        return null;
      }
    }
    int skipped = 0;
    while (skipped < planned) {
      int entry = tree.find(key(plan, plan.firstBlock + skipped));
      if (entry == NONE) {
        break;
      }
      if (tree.parent(entry) != parent) {
        // The same hash under another prefix: this client's chain is not one.
        refuse(plan, skipped, DropReason.REFUSED);
        return null;
      }
      parent = entry;
      skipped++;
    }
    if (skipped == planned) {
      end(plan, skipped, JobStatus.OK);
      return null;
    }
    return place(plan, skipped, parent);
  }

  private @Nullable SaveAttempt place(SavePlan plan, int skipped, int parent) {
    int wanted = plan.gpuBlocks.length - skipped;
    int[] entries = new int[wanted];
    long[] slots = new long[wanted];
    boolean holds = parent != NONE && tree.isReady(parent);
    if (holds) {
      tree.pin(parent);
    }
    int reference = attempts.reserve();
    int placed = 0;
    int above = parent;
    evictor.begin(plan.namespace, wanted);
    while (placed < wanted) {
      int block = plan.firstBlock + skipped + placed;
      if (tree.find(key(plan, block)) != NONE) {
        break;
      }
      long slot = evictor.allocate(plan.namespace);
      if (slot == SlotAllocator.FULL) {
        break;
      }
      above =
          tree.add(
              plan.namespace,
              plan.group,
              key(plan, block),
              plan.chain.hashLo(block),
              above,
              slot,
              reference,
              placed);
      entries[placed] = above;
      slots[placed] = slot;
      placed++;
    }
    if (placed == 0) {
      attempts.release(reference);
      if (holds) {
        tree.unpin(parent);
      }
      refuse(plan, skipped, DropReason.POOL_FULL);
      return null;
    }
    counters.drop(DropReason.POOL_FULL, wanted - placed);
    counters.savesPlanned++;
    SaveAttempt attempt =
        new SaveAttempt(
            plan.jobId,
            plan.instanceId,
            plan.namespace,
            plan.now,
            reference,
            skipped,
            wanted - placed,
            Arrays.copyOfRange(plan.gpuBlocks, skipped, skipped + placed),
            Arrays.copyOf(slots, placed),
            Arrays.copyOfRange(plan.generations, skipped, skipped + placed),
            Arrays.copyOf(entries, placed));
    attempt.held = holds ? parent : NONE;
    attempts.bind(attempt);
    jobs.add(attempt);
    return attempt;
  }

  /** Ends a save that cannot be: none of its blocks beyond {@code skipped} is cached. */
  void refuse(SavePlan plan, int skipped, DropReason reason) {
    counters.drop(reason, plan.gpuBlocks.length - skipped);
    end(plan, skipped, JobStatus.FAILED);
  }

  void go(SaveAttempt attempt, int part) {
    attempt.send(part, effects);
    jobs.partLeft(attempt);
  }

  void done(SaveAttempt attempt, int part, boolean[] blockOk) {
    int[] blocks = attempt.drained(part);
    for (int block : blocks) {
      if (attempt.isDropped(block) && !attempt.copying(block)) {
        pool.freeWritten(attempt.slot(block));
      }
    }
    for (int i = 0; i < blocks.length; i++) {
      boolean ok = i < blockOk.length && blockOk[i];
      if (!ok && !attempt.isDropped(blocks[i])) {
        tree.drop(attempt.entry(blocks[i]), DropReason.COPY_LOST);
      }
    }
    boolean good = true;
    for (int block : blocks) {
      if (attempt.isDropped(block)) {
        good = false;
      } else if (attempt.bringIn(block)) {
        int entry = attempt.entry(block);
        attempt.complete(block);
        tree.complete(entry);
      }
    }
    effects.jobDone(attempt.id, part, good ? JobStatus.OK : attempt.failure);
    settle(attempt);
  }

  /** The attempt cannot become whole any more: drops its blocks and ends what has no go. */
  void lose(SaveAttempt attempt, DropReason reason) {
    for (int block = 0; block < attempt.blocks(); block++) {
      if (!attempt.isDropped(block)) {
        tree.drop(attempt.entry(block), reason);
      }
    }
    settle(attempt);
  }

  /** As {@link #lose}, and lets go of the servable parent, which is about to go too. */
  void reset(SaveAttempt attempt) {
    letGo(attempt);
    lose(attempt, DropReason.RESET);
  }

  /** Ends attempts that lost all their blocks because those of others were dropped. */
  void settleEmptied() {
    for (SaveAttempt attempt = attempts.pollEmptied();
        attempt != null;
        attempt = attempts.pollEmptied()) {
      settle(attempt);
    }
  }

  private void settle(SaveAttempt attempt) {
    if (jobs.get(attempt.id) != attempt) {
      return;
    }
    if (attempt.alive() == 0) {
      for (int part = 0; part < attempt.parts(); part++) {
        if (attempt.waits(part)) {
          attempt.endSilently(part);
          jobs.partLeft(attempt);
        }
      }
    }
    if (attempt.over()) {
      letGo(attempt);
      attempts.release(attempt.reference);
      jobs.remove(attempt);
      effects.saveDone(
          attempt.id, attempt.complete(), attempt.skipped, attempt.dropped() + attempt.unplaced);
    }
  }

  /** Its servable parent need not stay for it any more. */
  void letGo(SaveAttempt attempt) {
    if (attempt.held != NONE) {
      tree.unpin(attempt.held);
      attempt.held = NONE;
    }
  }

  private void end(SavePlan plan, int skipped, JobStatus status) {
    ended.refuse(plan.jobId, plan.namespace.parts(), status, plan.gone);
    effects.saveDone(plan.jobId, 0, skipped, plan.gpuBlocks.length - skipped);
  }

  private KeyProbe key(SavePlan plan, int block) {
    return probe.set(
        plan.namespace.salt(plan.group), plan.chain.hashHi(block), plan.chain.hashLo(block));
  }
}
