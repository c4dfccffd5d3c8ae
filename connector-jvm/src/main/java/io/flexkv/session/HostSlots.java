package io.flexkv.session;

import io.flexkv.cache.SlotAllocator;
import io.flexkv.tier.HostPool;

/** The host pool as the cache core sees it, with an additional cap on the number of blocks. */
public final class HostSlots implements SlotAllocator {
  private final HostPool pool;
  private final long maxBlocks;
  private long blocks;

  /**
   * @param maxBlocks 0 = as many as have room
   */
  public HostSlots(HostPool pool, long maxBlocks) {
    this.pool = pool;
    this.maxBlocks = maxBlocks == 0 ? Long.MAX_VALUE : maxBlocks;
  }

  @Override
  public long allocate(long slotBytes) {
    if (blocks >= maxBlocks) {
      return FULL;
    }
    long slot = pool.allocate(slotBytes);
    if (slot == HostPool.FULL) {
      return FULL;
    }
    blocks++;
    return slot;
  }

  @Override
  public void free(long slot) {
    pool.free(slot);
    blocks--;
  }

  @Override
  public long capacityBytes() {
    return pool.capacityBytes();
  }

  @Override
  public long usedBytes() {
    return pool.usedBytes();
  }

  @Override
  public boolean shrinks() {
    return !pool.vacant();
  }

  @Override
  public boolean leaves(long slot) {
    return pool.leaves(slot);
  }

  /** See {@link HostPool#resize}. */
  void resize(long capacityBytes) {
    pool.resize(capacityBytes);
  }

  /** Where a slot begins in this process. */
  long address(long slot) {
    return pool.address(slot);
  }
}
