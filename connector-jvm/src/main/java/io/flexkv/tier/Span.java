package io.flexkv.tier;

/**
 * Neighbouring extents that hold slots of one size. Slot i lies at {@code start + i * stride}; a
 * bitmap says which are held, a 16-bit counter each how often it was handed out.
 */
final class Span {
  private final int first;
  private final int extents;
  private final long start;
  private final long bytes;
  private final long stride;
  private final int slots;
  private final long[] held;
  private final short[] generations;
  private int used;
  private int searchFrom;

  Span(int first, int extents, long start, long bytes, long stride) {
    this.first = first;
    this.extents = extents;
    this.start = start;
    this.bytes = bytes;
    this.stride = stride;
    this.slots = Math.toIntExact(bytes / stride);
    this.held = new long[(slots + 63) / 64];
    this.generations = new short[slots];
  }

  int first() {
    return first;
  }

  int extents() {
    return extents;
  }

  long bytes() {
    return bytes;
  }

  long stride() {
    return stride;
  }

  boolean empty() {
    return used == 0;
  }

  boolean full() {
    return used == slots;
  }

  /**
   * Hands out a free slot; the span must not be full.
   *
   * @param salt makes the first generation of a new span differ from that of the span before it in
   *     the same place
   */
  long take(int salt) {
    int words = held.length;
    for (int i = 0; i < words; i++) {
      int word = (searchFrom + i) % words;
      int bit = Long.numberOfTrailingZeros(~held[word]);
      int slot = word * 64 + bit;
      if (bit < 64 && slot < slots) {
        searchFrom = word;
        held[word] |= 1L << bit;
        used++;
        int before = generations[slot] == 0 ? salt : generations[slot];
        int generation = before % (Slots.GENERATIONS - 1) + 1;
        generations[slot] = (short) generation;
        return Slots.slot(start + slot * stride, generation);
      }
    }
    throw new IllegalStateException(
        "span at %d: used=%d of %d, none free".formatted(start, used, slots));
  }

  void give(long handle) {
    long within = Slots.offset(handle) - start;
    int slot = (int) (within / stride);
    if (within % stride != 0 || slot >= slots) {
      throw new IllegalArgumentException(
          "slot %x does not start one of %d bytes".formatted(handle, stride));
    }
    if ((held[slot / 64] & 1L << slot) == 0 || generations[slot] != Slots.generation(handle)) {
      throw new IllegalArgumentException(
          "slot %x is not held: freed before (generation %d, now %d)"
              .formatted(handle, Slots.generation(handle), generations[slot]));
    }
    held[slot / 64] &= ~(1L << slot);
    used--;
  }
}
