package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_THERE;
import static io.flexkv.cache.EntryLayout.SSD_HELD;

import java.util.Arrays;
import java.util.BitSet;
import java.util.function.IntConsumer;
import java.util.function.IntPredicate;

/**
 * Blocks whose SSD copy is no more: its bytes did not verify, or its directory is lost. SSD copies
 * are closed, so all copies below go too; a block that has none in the host tier goes with all that
 * is below it, and with it leases, loads and saves that build on it. Those pin what they need, so
 * they are looked through only where something pinned goes.
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
    Entries without = new Entries();
    Entries gone = new Entries();
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
    without.lastFirst(copies::dropSsd); // what is known of a use goes to the parent
    saves.settleEmptied();
  }

  /**
   * As {@link #lose}, of a block below which no copy is held. If it goes with all that is below it,
   * so many blocks go at most, leaves first: it is held still until nothing is below it.
   *
   * @return how many blocks went
   */
  int loseLast(int entry, int most) {
    if (copies.inHost(entry) == HOST_THERE) {
      counters.ssdLostBlocks++;
      copies.dropSsd(entry);
      return 0;
    }
    Entries going = new Entries();
    BitSet needed = new BitSet();
    tree.leavesFirst(
        entry,
        most,
        block -> {
          counters.ssdLostBlocks += block == entry ? 1 : 0;
          going.add(block);
          if (tree.isPinned(block)) {
            needed.set(block);
          }
        });
    if (!needed.isEmpty()) {
      end(needed);
    }
    going.forEach(tree::lose);
    saves.settleEmptied();
    return going.size;
  }

  private void loseTree(int root) {
    BitSet needed = new BitSet();
    IntPredicate visitor =
        block -> {
          if (tree.isPinned(block)) {
            needed.set(block);
          }
          return true;
        };
    if (visitor.test(root)) {
      copies.below(root, visitor);
    }
    if (!needed.isEmpty()) {
      end(needed);
    }
    tree.lose(root);
  }

  /** Ends all that needs one of these blocks. */
  private void end(BitSet needed) {
    leases.endWhere(lease ->
        needed.get(lease.entry) || (lease.reading != null && needed.get(lease.reading.deepest())));
    for (Job job : jobs.where(job -> true)) {
      switch (job) {
        case LoadJob load -> {
          if (load.pinned != NONE && needed.get(load.pinned)) {
            loads.reset(load);
          }
        }
        case SaveAttempt save -> {
          if (save.held != NONE && needed.get(save.held)) {
            saves.letGo(save);
          }
        }
      }
    }
  }

  /** A list of entries; there may be millions. */
  private static final class Entries {
    private int[] entries = new int[16];
    private int size;

    void add(int entry) {
      if (size == entries.length) {
        entries = Arrays.copyOf(entries, 2 * size);
      }
      entries[size++] = entry;
    }

    void forEach(IntConsumer action) {
      for (int i = 0; i < size; i++) {
        action.accept(entries[i]);
      }
    }

    void lastFirst(IntConsumer action) {
      for (int i = size - 1; i >= 0; i--) {
        action.accept(entries[i]);
      }
    }
  }
}
