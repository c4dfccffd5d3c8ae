package io.flexkv.cache;

import static io.flexkv.cache.EntryLayout.HOST_NONE;

/** Of the host tier. With write-back, a block that is not on the SSD has time to get there. */
final class HostVacating extends Vacating {
  /** Rounds for which a block that is not on the SSD stays. */
  private static final int PATIENT_ROUNDS = 20;

  private final SsdWrites writes;

  HostVacating(BlockIndex index, BlockTree tree, SlotPool pool, SsdWrites writes) {
    super(index, tree, pool);
    this.writes = writes;
  }

  @Override
  boolean inTier(int entry) {
    return copies.inHost(entry) != HOST_NONE;
  }

  @Override
  boolean parentInTier(int parent) {
    return inTier(parent);
  }

  @Override
  boolean leaves(int entry) {
    return pool.leaves(tree.slot(entry));
  }

  @Override
  boolean evictable(int entry) {
    return Copies.hostEvictable(index, entry);
  }

  @Override
  boolean waits(int entry) {
    return rounds() <= PATIENT_ROUNDS && writes.savesBeforeItGoes(entry);
  }

  @Override
  void evict(int entry) {
    tree.evict(Tier.HOST, entry);
  }
}
