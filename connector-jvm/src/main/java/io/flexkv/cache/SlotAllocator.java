package io.flexkv.cache;

/**
 * Room for blocks in a tier: the port through which the cache core takes and returns slots. A slot
 * is an opaque 64-bit handle (an address, an offset), which the core stores and passes through.
 *
 * <p>Called by the cache thread only; must neither block nor call the core back.
 */
public interface SlotAllocator {
  /** What {@link #allocate} answers when there is no room. */
  long FULL = -1;

  /** A tier that is not there. */
  SlotAllocator NONE =
      new SlotAllocator() {
        @Override
        public long allocate(long slotBytes) {
          return FULL;
        }

        @Override
        public void free(long slot) {
          throw new IllegalArgumentException("slot " + slot + " of a tier that is not there");
        }

        @Override
        public long capacityBytes() {
          return 0;
        }

        @Override
        public long usedBytes() {
          return 0;
        }
      };

  /**
   * Takes a slot.
   *
   * @param slotBytes size of the block in bytes, positive; few different values occur
   * @return its handle, or {@link #FULL}
   */
  long allocate(long slotBytes);

  /** Returns a slot. The core calls it once for each allocated slot, when no copy can touch it. */
  void free(long slot);

  /**
   * Whether it hands out slots at present. If not (its disks are stalled or out), eviction would
   * make no room, only empty the tier.
   */
  default boolean serves() {
    return true;
  }

  /** Whether slots are held that it wants back: it has become smaller. */
  default boolean shrinks() {
    return false;
  }

  /** Whether this slot, which is held, is one of those: the core frees it as soon as it may. */
  default boolean leaves(long slot) {
    return false;
  }

  /** What this tier may hold at most, in bytes. */
  long capacityBytes();

  /** Bytes of the slots that are taken. */
  long usedBytes();
}
