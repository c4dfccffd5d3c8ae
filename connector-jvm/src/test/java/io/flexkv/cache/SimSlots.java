package io.flexkv.cache;

import java.util.HashMap;
import java.util.Map;
import java.util.function.LongPredicate;

/**
 * A pool whose slots have bytes: a tag for each part, written by simulated copies. It refuses to
 * take a slot back while {@code touched} says that a copy runs on it.
 */
final class SimSlots implements SlotAllocator {
  private static final long GARBAGE = Long.MIN_VALUE;

  private final FakeSlots slots;
  private final LongPredicate touched;
  private final Map<Long, Map<Integer, Long>> tags = new HashMap<>();

  SimSlots(FakeSlots slots, LongPredicate touched) {
    this.slots = slots;
    this.touched = touched;
  }

  @Override
  public long allocate(long slotBytes) {
    long slot = slots.allocate(slotBytes);
    if (slot != FULL) {
      tags.put(slot, new HashMap<>());
    }
    return slot;
  }

  @Override
  public void free(long slot) {
    if (touched.test(slot)) {
      throw new AssertionError("slot " + slot + " is freed while a copy may touch it");
    }
    slots.free(slot);
  }

  void write(long slot, int part, long tag) {
    tags.get(slot).put(part, tag);
  }

  long read(long slot, int part) {
    return tags.get(slot).getOrDefault(part, GARBAGE);
  }

  Map<Integer, Long> copy(long slot) {
    return new HashMap<>(tags.get(slot));
  }

  void paste(long slot, Map<Integer, Long> bytes) {
    tags.put(slot, new HashMap<>(bytes));
  }

  int taken() {
    return slots.taken();
  }

  @Override
  public boolean shrinks() {
    return slots.shrinks();
  }

  @Override
  public boolean leaves(long slot) {
    return slots.leaves(slot);
  }

  void resize(long bytes) {
    slots.resize(bytes);
  }

  @Override
  public long capacityBytes() {
    return slots.capacityBytes();
  }

  @Override
  public long usedBytes() {
    return slots.usedBytes();
  }
}
