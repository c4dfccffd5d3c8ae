package io.flexkv.tier.ssd;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.VarHandle;
import java.util.Objects;

/**
 * Neighbouring extents cut into slots of one size: slot {@code i} lies at {@code start + i *
 * stride}.
 *
 * <p>Two halves with two owners. Which slots are held, and how often each was handed out, is the
 * cache thread's. What a slot holds ({@link #identityDigest}, {@link #sum}) is written by the I/O
 * thread that commits a write and read by the one that verifies a read; the job queues between them
 * order the two, for a slot is read only after its write has been reported. {@link #headerPage} is
 * guarded by the header log.
 *
 * <p>What is known of slots lies outside the heap, in columns one after another, for a disk may
 * have many millions:
 *
 * <pre>
 * 8 bytes a slot: digest of the identity of what it holds, 0 = nothing
 * 4 bytes: CRC32C of the identity and the payload
 * 4 bytes: number of the log page that holds its header, 0 = none
 * 4 bytes: how often it was handed out
 * 1 byte:  {@link DirectoryScan#UNPROVEN} and {@link DirectoryScan#NOT_OFFERED}
 * 1 byte:  1 if its bytes did not verify; set by any thread before the owner hears of it
 * </pre>
 */
final class SlotSpan {
  private static final int BITS = Long.SIZE;
  private static final int SLOT_BYTES = 22;
  private static final VarHandle DIGEST = JAVA_LONG.varHandle();

  final int firstExtent;
  final int extents;
  final long start;
  final long stride;
  final int slots;

  /** Differs from every other span's of this directory, greater than those of earlier ones. */
  final long sequence;

  private final MemorySegment known;
  private final long sums;
  private final long headerPages;
  private final long generations;
  private final long marks;
  private final long bad;

  /** Generation from which a slot's first one follows. */
  private final int salt;

  private final long[] held;
  private int used;
  private int searchFrom;

  /** The header log knows that this span is gone. Guarded by it. */
  private boolean dissolved;

  /** Slots that are held by nobody and never given out, because their bytes did not verify. */
  int abandoned;

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
    this.known = Arena.ofAuto().allocate((long) slots * SLOT_BYTES, Long.BYTES);
    this.sums = (long) slots * Long.BYTES;
    this.headerPages = sums + (long) slots * Integer.BYTES;
    this.generations = headerPages + (long) slots * Integer.BYTES;
    this.marks = generations + (long) slots * Integer.BYTES;
    this.bad = marks + slots;
    this.held = new long[(slots + BITS - 1) / BITS];
    this.salt = salt;
  }

  boolean empty() {
    return used == 0;
  }

  boolean full() {
    return used == slots;
  }

  /** Whether nobody holds a slot of it. */
  boolean deserted() {
    return used == abandoned;
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
    int next = generation(index) % (SlotNumber.GENERATIONS - 1) + 1;
    known.set(JAVA_INT, at(generations, index), next - salt);
    used++;
  }

  int generation(int index) {
    return salt + known.get(JAVA_INT, at(generations, index));
  }

  /** Whether this very number was handed out and not given back. */
  boolean holds(long slot) {
    long within = SlotNumber.offset(slot) - start;
    int index = (int) (within / stride);
    return within % stride == 0
        && index < slots
        && (held[index / BITS] & 1L << index) != 0
        && generation(index) == SlotNumber.generation(slot);
  }

  boolean holdsIndex(int index) {
    return (held[index / BITS] & 1L << index) != 0;
  }

  private static long at(long column, int index) {
    return column + (long) index * Integer.BYTES;
  }

  /** What a slot holds, as of now. Any thread. */
  long identityDigest(int index) {
    return (long) DIGEST.getVolatile(known, (long) checked(index) * Long.BYTES);
  }

  /** From now on a slot holds something else, or nothing. */
  void setIdentityDigest(int index, long digest) {
    DIGEST.setVolatile(known, (long) checked(index) * Long.BYTES, digest);
  }

  int sum(int index) {
    return known.get(JAVA_INT, at(sums, checked(index)));
  }

  void setSum(int index, int sum) {
    known.set(JAVA_INT, at(sums, checked(index)), sum);
  }

  int headerPage(int index) {
    return known.get(JAVA_INT, at(headerPages, checked(index)));
  }

  void setHeaderPage(int index, int page) {
    known.set(JAVA_INT, at(headerPages, checked(index)), page);
  }

  boolean isDissolved() {
    return dissolved;
  }

  void setDissolved() {
    dissolved = true;
  }

  /** Whether a start has marked it so, and nothing has changed that since. */
  boolean isMarked(int index, byte mark) {
    return (known.get(JAVA_BYTE, marks + checked(index)) & mark) != 0;
  }

  void mark(int index, int mark) {
    long place = marks + checked(index);
    known.set(JAVA_BYTE, place, (byte) (known.get(JAVA_BYTE, place) | mark));
  }

  void unmark(int index, int mark) {
    long place = marks + checked(index);
    known.set(JAVA_BYTE, place, (byte) (known.get(JAVA_BYTE, place) & ~mark));
  }

  /** A slot must not be used any more: reads of it miss, and it is never handed out again. */
  void markBad(int index) {
    known.set(JAVA_BYTE, bad + checked(index), (byte) 1);
    setIdentityDigest(index, 0);
  }

  boolean isBad(int index) {
    return known.get(JAVA_BYTE, bad + checked(index)) != 0;
  }

  /** The columns lie side by side: what is beyond one of them is in the next. */
  private int checked(int index) {
    return Objects.checkIndex(index, slots);
  }

  /** Takes a slot back; it must be held. Whoever still reads it finds that it holds nothing. */
  void give(long slot) {
    int index = indexOf(SlotNumber.offset(slot));
    setIdentityDigest(index, 0);
    held[index / BITS] &= ~(1L << index);
    used--;
  }
}
