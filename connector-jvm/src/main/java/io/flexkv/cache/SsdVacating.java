package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.SSD_HELD;
import static io.flexkv.cache.EntryLayout.SSD_SLOT;
import static io.flexkv.cache.EntryLayout.SSD_WRITING;

/**
 * Of the SSD tier. A copy goes after those below it, for what a restart finds are whole chains; a
 * block that the host tier has too stays servable from there. One that has its SSD copy alone ends
 * with it, and so does what was saved below it, which is in the host tier alone.
 */
final class SsdVacating extends Vacating {
  SsdVacating(BlockIndex index, BlockTree tree, SlotPool pool) {
    super(index, tree, pool);
  }

  private boolean onSsd(int entry) {
    return copies.onSsd(entry) >= SSD_WRITING;
  }

  @Override
  boolean inTier(int entry) {
    if (onSsd(entry)) {
      return true;
    }
    int above = tree.parent(entry);
    while (above != NONE && !onSsd(above)) {
      above = tree.parent(above);
    }
    return above != NONE && copies.inHost(above) == HOST_NONE;
  }

  /** SSD copies are closed, and what lives by one above it has no other way up. */
  @Override
  boolean parentInTier(int parent) {
    return true;
  }

  @Override
  boolean leaves(int entry) {
    return copies.onSsd(entry) == SSD_HELD && pool.leaves(index.getLong(entry, SSD_SLOT));
  }

  @Override
  boolean evictable(int entry) {
    return onSsd(entry)
        ? Copies.ssdEvictable(index, entry)
        : Copies.hostEvictable(index, entry) && inTier(entry);
  }

  @Override
  boolean waits(int entry) {
    return false;
  }

  @Override
  void evict(int entry) {
    tree.evict(onSsd(entry) ? Tier.SSD : Tier.HOST, entry);
  }
}
