package io.flexkv.cache;

import java.util.HashMap;
import java.util.Map;

/**
 * The slots of the pool and their quarantine: a slot whose block has gone is returned only when no
 * copy can touch it any more.
 *
 * <p>There are two kinds of copies. Loads read slots of servable blocks, which go only by a reset;
 * then each open load <em>holds</em> its slots here until its parts are drained. Saves write slots
 * of pending blocks; a {@link SaveAttempt} counts the copies of each of its blocks itself, and
 * returns the slot of a dropped one when the last has ended.
 */
final class SlotPool {
  private static final class Hold {
    int holders;
    boolean retired;
  }

  private final SlotAllocator allocator;
  private final Map<Long, Hold> holds = new HashMap<>();
  private int quarantined;

  SlotPool(SlotAllocator allocator) {
    this.allocator = allocator;
  }

  /** A slot, or {@link SlotAllocator#FULL}. */
  long allocate(long bytes) {
    return allocator.allocate(bytes);
  }

  /** See {@link SlotAllocator#serves}. */
  boolean serves() {
    return allocator.serves();
  }

  /** See {@link SlotAllocator#shrinks}. */
  boolean shrinks() {
    return allocator.shrinks();
  }

  /** See {@link SlotAllocator#leaves}. */
  boolean leaves(long slot) {
    return allocator.leaves(slot);
  }

  /** The block of this slot has gone: frees the slot, or keeps it until its holders let go. */
  void retire(long slot) {
    Hold hold = holds.get(slot);
    if (hold == null) {
      allocator.free(slot);
    } else {
      hold.retired = true;
      quarantined++;
    }
  }

  /** A copy may read this slot even if its block goes. */
  void hold(long slot) {
    holds.computeIfAbsent(slot, s -> new Hold()).holders++;
  }

  /** The counterpart of {@link #hold}. */
  void letGo(long slot) {
    Hold hold = holds.get(slot);
    if (hold == null) {
      throw new IllegalStateException("slot " + slot + " is not held");
    }
    if (--hold.holders == 0) {
      holds.remove(slot);
      if (hold.retired) {
        quarantined--;
        allocator.free(slot);
      }
    }
  }

  /** The block of this slot has gone while a save still writes it. */
  void quarantineWritten() {
    quarantined++;
  }

  /** The last copy into such a slot has ended. */
  void freeWritten(long slot) {
    quarantined--;
    allocator.free(slot);
  }

  int quarantined() {
    return quarantined;
  }

  long capacityBytes() {
    return allocator.capacityBytes();
  }

  long usedBytes() {
    return allocator.usedBytes();
  }
}
