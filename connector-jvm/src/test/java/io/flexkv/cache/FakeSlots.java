package io.flexkv.cache;

import java.util.HashMap;
import java.util.Map;
import java.util.TreeSet;

/**
 * A pool that counts: hands out handles, refuses beyond its capacity, and insists that each slot is
 * freed once. With extents, a size keeps the memory it was given until all of an extent is free.
 */
final class FakeSlots implements SlotAllocator {
  private long capacity;
  private final long extentBytes;
  private static final long FIRST = 1000;

  private final Map<Long, Long> sizes = new HashMap<>();
  private final Map<Long, Integer> usedInExtent = new HashMap<>();
  private final Map<Long, Long> extentOwner = new HashMap<>();

  /** Those below {@link #next} that are not taken. */
  private final TreeSet<Long> freeSlots = new TreeSet<>();

  private long next = FIRST;
  private long used;
  private long smallest = Long.MAX_VALUE;

  /** Hands out nothing, however much is free. */
  boolean stalled;

  /** Likewise, and says that it serves. */
  boolean full;

  FakeSlots(long capacity) {
    this(capacity, 0);
  }

  FakeSlots(long capacity, long extentBytes) {
    this.capacity = capacity;
    this.extentBytes = extentBytes;
  }

  @Override
  public long allocate(long slotBytes) {
    if (stalled || full) {
      return FULL;
    }
    return extentBytes == 0 ? fromOnePool(slotBytes) : fromExtents(slotBytes);
  }

  @Override
  public boolean serves() {
    return !stalled;
  }

  /** Has another capacity from now on: what lies beyond as many slots as that holds is to go. */
  void resize(long bytes) {
    capacity = bytes;
  }

  @Override
  public boolean shrinks() {
    return sizes.keySet().stream().anyMatch(this::leaves);
  }

  @Override
  public boolean leaves(long slot) {
    return extentBytes == 0 ? slot >= FIRST + capacity / smallest : slot >= capacity;
  }

  private long fromOnePool(long slotBytes) {
    if (used + slotBytes > capacity) {
      return FULL;
    }
    smallest = Math.min(smallest, slotBytes);
    long handle = freeSlots.isEmpty() ? next : freeSlots.first();
    if (leaves(handle)) {
      return FULL;
    }
    leaveFree(handle);
    return take(handle, slotBytes);
  }

  /** All before this one that were never taken are free; it is not. */
  private void leaveFree(long handle) {
    for (; next <= handle; next++) {
      freeSlots.add(next);
    }
    freeSlots.remove(handle);
  }

  private long fromExtents(long slotBytes) {
    for (long extent = 0; extent < capacity / extentBytes; extent++) {
      Long owner = extentOwner.get(extent);
      if (owner != null && owner == slotBytes) {
        for (long at = 0; at + slotBytes <= extentBytes; at += slotBytes) {
          long handle = extent * extentBytes + at;
          if (!sizes.containsKey(handle)) {
            usedInExtent.merge(extent, 1, Integer::sum);
            return take(handle, slotBytes);
          }
        }
      }
    }
    for (long extent = 0; extent < capacity / extentBytes; extent++) {
      if (!extentOwner.containsKey(extent)) {
        extentOwner.put(extent, slotBytes);
        usedInExtent.merge(extent, 1, Integer::sum);
        return take(extent * extentBytes, slotBytes);
      }
    }
    return FULL;
  }

  /** A slot that was taken before; false if there is no room for it. */
  boolean take(Long handle, long slotBytes) {
    if (used + slotBytes > capacity) {
      return false;
    }
    smallest = Math.min(smallest, slotBytes);
    leaveFree(handle);
    take(handle.longValue(), slotBytes);
    return true;
  }

  private long take(long handle, long slotBytes) {
    sizes.put(handle, slotBytes);
    used += slotBytes;
    return handle;
  }

  @Override
  public void free(long slot) {
    Long bytes = sizes.remove(slot);
    if (bytes == null) {
      throw new AssertionError("slot " + slot + " is freed but not taken");
    }
    used -= bytes;
    if (extentBytes == 0) {
      freeSlots.add(slot);
    } else {
      long extent = slot / extentBytes;
      if (usedInExtent.merge(extent, -1, Integer::sum) == 0) {
        extentOwner.remove(extent);
      }
    }
  }

  boolean isTaken(long slot) {
    return sizes.containsKey(slot);
  }

  int taken() {
    return sizes.size();
  }

  @Override
  public long capacityBytes() {
    return capacity;
  }

  @Override
  public long usedBytes() {
    return used;
  }
}
