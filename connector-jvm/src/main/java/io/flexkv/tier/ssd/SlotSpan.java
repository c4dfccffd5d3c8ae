package io.flexkv.tier.ssd;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;

/**
 * Neighbouring extents cut into slots of one size: slot {@code i} lies at {@code start + i *
 * stride}.
 *
 * <p>Two halves with two owners. Which slots are held, and how often each was handed out, is the
 * cache thread's. What a slot holds ({@link #identityDigests}, {@link #sums}) is written by the I/O
 * thread that commits a write and read by the one that verifies a read; the job queues between them
 * order the two, for a slot is read only after its write has been reported. {@link #headerPages} is
 * guarded by the header log.
 */
final class SlotSpan {
  private static final int BITS = Long.SIZE;
  private static final VarHandle DIGEST = MethodHandles.arrayElementVarHandle(long[].class);

  final int firstExtent;
  final int extents;
  final long start;
  final long stride;
  final int slots;

  /** Differs from every other span's of this directory, greater than those of earlier ones. */
  final long sequence;

  /** By slot: digest of the identity of what it holds, 0 = nothing. */
  final long[] identityDigests;

  /** By slot: CRC32C of the identity and the payload. */
  final int[] sums;

  /** By slot: number of the log page that holds its header, 0 = none. */
  final int[] headerPages;

  /** By slot: 1 if it was found at a start and nobody has verified its bytes since. */
  final byte[] unproven;

  /** By slot: 1 if its bytes did not verify. Set by any thread before the owner hears of it. */
  private final byte[] bad;

  private final long[] held;
  private final int[] generations;
  private int used;
  private int searchFrom;

  /**
   * @param salt generation from which a slot's first one follows
   */
  SlotSpan(int firstExtent, int extents, long extentBytes, long stride, long sequence, int salt) {
    this.firstExtent = firstExtent;
    this.extents = extents;
    this.start = firstExtent * extentBytes;
    this.stride = stride;
    this.slots = Math.toIntExact(extents * extentBytes / stride);
    this.sequence = sequence;
    this.identityDigests = new long[slots];
    this.sums = new int[slots];
    this.headerPages = new int[slots];
    this.unproven = new byte[slots];
    this.bad = new byte[slots];
    this.held = new long[(slots + BITS - 1) / BITS];
    this.generations = new int[slots];
    java.util.Arrays.fill(generations, salt);
  }

  boolean empty() {
    return used == 0;
  }

  boolean full() {
    return used == slots;
  }

  int used() {
    return used;
  }

  /** Which slot a byte of the directory lies in. */
  int indexOf(long offset) {
    return (int) ((offset - start) / stride);
  }

  long offset(int index) {
    return start + index * stride;
  }

  /** Hands out a free slot; there must be one. */
  int take() {
    for (int i = 0; i < held.length; i++) {
      int word = (searchFrom + i) % held.length;
      int bit = Long.numberOfTrailingZeros(~held[word]);
      int index = word * BITS + bit;
      if (bit < BITS && index < slots) {
        searchFrom = word;
        takeAt(index);
        return index;
      }
    }
    throw new IllegalStateException(
        "span at extent %d: used=%d of %d, none free".formatted(firstExtent, used, slots));
  }

  /** Hands out a given slot, at recovery. */
  void takeAt(int index) {
    held[index / BITS] |= 1L << index;
    generations[index] = generations[index] % (SlotNumber.GENERATIONS - 1) + 1;
    used++;
  }

  int generation(int index) {
    return generations[index];
  }

  /** Whether this very number was handed out and not given back. */
  boolean holds(long slot) {
    long within = SlotNumber.offset(slot) - start;
    int index = (int) (within / stride);
    return within % stride == 0
        && index < slots
        && (held[index / BITS] & 1L << index) != 0
        && generations[index] == SlotNumber.generation(slot);
  }

  boolean holdsIndex(int index) {
    return (held[index / BITS] & 1L << index) != 0;
  }

  /** What a slot holds, as of now. Any thread. */
  long identityDigest(int index) {
    return (long) DIGEST.getVolatile(identityDigests, index);
  }

  /** From now on a slot holds something else, or nothing. */
  void setIdentityDigest(int index, long digest) {
    DIGEST.setVolatile(identityDigests, index, digest);
  }

  /** A slot must not be used any more: reads of it miss, and it is never handed out again. */
  void markBad(int index) {
    bad[index] = 1;
    setIdentityDigest(index, 0);
  }

  boolean isBad(int index) {
    return bad[index] != 0;
  }

  /** Takes a slot back; it must be held. Whoever still reads it finds that it holds nothing. */
  void give(long slot) {
    int index = indexOf(SlotNumber.offset(slot));
    setIdentityDigest(index, 0);
    held[index / BITS] &= ~(1L << index);
    used--;
  }
}
