package io.flexkv.cache;

import static io.flexkv.cache.EntryLayout.HOST_THERE;
import static io.flexkv.cache.EntryLayout.SSD_HELD;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.function.IntPredicate;

/**
 * Blocks whose SSD copy is no more: its bytes did not verify, or its directory is lost. SSD copies
 * are closed, so all copies below go too; a block that has none in the host tier goes with all that
 * is below it, and with it leases, loads and saves that build on it. Rare, so it may look at every
 * lease and job.
 */
final class Losses {
  private final BlockTree tree;
  private final Copies copies;
  private final Leases leases;
  private final JobTable jobs;
  private final LoadJobs loads;
  private final SaveAttempts saves;
  private final Counters counters;

  Losses(
      BlockTree tree,
      Leases leases,
      JobTable jobs,
      LoadJobs loads,
      SaveAttempts saves,
      Counters counters) {
    this.tree = tree;
    this.copies = tree.copies();
    this.leases = leases;
    this.jobs = jobs;
    this.loads = loads;
    this.saves = saves;
    this.counters = counters;
  }

  /** The SSD copy of this block, which is held, is lost. */
  void lose(int entry) {
    List<Integer> without = new ArrayList<>();
    List<Integer> gone = new ArrayList<>();
    IntPredicate visitor =
        block -> {
          if (copies.onSsd(block) != SSD_HELD) {
            return false;
          }
          counters.ssdLostBlocks++;
          boolean stays = copies.inHost(block) == HOST_THERE;
          (stays ? without : gone).add(block);
          return stays;
        };
    if (visitor.test(entry)) {
      copies.below(entry, visitor);
    }
    gone.forEach(this::loseTree);
    without.forEach(copies::dropSsd);
    saves.settleEmptied();
  }

  private void loseTree(int root) {
    Set<Integer> doomed = new HashSet<>();
    doomed.add(root);
    copies.below(root, doomed::add);
    leases.endWhere(lease ->
        doomed.contains(lease.entry)
            || (lease.reading != null && doomed.contains(lease.reading.deepest())));
    for (Job job : jobs.where(job -> true)) {
      switch (job) {
        case LoadJob load -> {
          if (doomed.contains(load.pinned)) {
            loads.reset(load);
          }
        }
        case SaveAttempt save -> {
          if (doomed.contains(save.held)) {
            saves.letGo(save);
          }
        }
      }
    }
    tree.lose(root);
  }
}
