package io.flexkv.tier.ssd;

import static io.flexkv.tier.ssd.HeaderPageDescriptor.INT;
import static io.flexkv.tier.ssd.HeaderPageDescriptor.LONG;
import static io.flexkv.tier.ssd.HeaderPageDescriptor.SHORT;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * One slot's header in a page of the log. Little-endian.
 *
 * <pre>
 *   0 u16 length, a multiple of 8     2 u16 bytes of event data    4 u32 flags: 1 = has a parent
 *   8 u64 sequence: greater = written later
 *  16 u64 sequence of the span
 *  24 u32 first extent of the span   28 u32 its extents
 *  32 u32 pages of a slot            36 u32 index of the slot
 *  40 u32 CRC32C of identity and payload
 *  44 u32 tokens of a block
 *  48 u64 boot epoch
 *  56 u64 namespace digest, upper    64 u64 lower
 *  72 u32 generation                 76 u32 group
 *  80 u64 key, upper                 88 u64 lower
 *  96 u64 layout digest             104 u64 payload bytes
 * 112 u64 parent's key, upper       120 u64 lower
 * 128     event data, then zeros to the next multiple of 8
 * </pre>
 *
 * A view without a copy, moved from record to record by {@link #wrap}. One thread.
 */
final class HeaderRecord {
  static final int FIXED_BYTES = 128;
  private static final int FLAG_PARENT = 1;
  private static final byte[] NO_EVENT = new byte[0];

  private MemorySegment in = MemorySegment.NULL;
  private long at;
  private int length;

  /** What a record takes in a page. */
  static int length(SlotHeader header) {
    return (FIXED_BYTES + header.eventData().length + 7) / 8 * 8;
  }

  /** Writes a record; {@code into} has its length and is zero. */
  static void encode(
      MemorySegment into, SlotHeader header, SlotSpan span, int index, int sum, long sequence) {
    SlotIdentity identity = header.identity();
    into.set(SHORT, 0, (short) into.byteSize());
    into.set(SHORT, 2, (short) header.eventData().length);
    into.set(INT, 4, header.hasParent() ? FLAG_PARENT : 0);
    into.set(LONG, 8, sequence);
    into.set(LONG, 16, span.sequence);
    into.set(INT, 24, span.firstExtent);
    into.set(INT, 28, span.extents);
    into.set(INT, 32, (int) (span.stride / SsdStore.PAGE_BYTES));
    into.set(INT, 36, index);
    into.set(INT, 40, sum);
    into.set(INT, 44, header.blockTokens());
    into.set(LONG, 48, header.bootEpoch());
    into.set(LONG, 56, identity.digestHi());
    into.set(LONG, 64, identity.digestLo());
    into.set(INT, 72, identity.generation());
    into.set(INT, 76, identity.group());
    into.set(LONG, 80, identity.keyHi());
    into.set(LONG, 88, identity.keyLo());
    into.set(LONG, 96, identity.layoutDigest());
    into.set(LONG, 104, identity.payloadBytes());
    into.set(LONG, 112, header.parentHi());
    into.set(LONG, 120, header.parentLo());
    MemorySegment.copy(
        header.eventData(), 0, into, ValueLayout.JAVA_BYTE, FIXED_BYTES, header.eventData().length);
  }

  /**
   * Moves to the record at {@code offset} of a page's records; false if what is there cannot be
   * one.
   *
   * <p>A page that passed its checksum holds none such; this is for pages that somebody made.
   */
  boolean wrap(MemorySegment records, long offset) {
    if (records.byteSize() - offset < FIXED_BYTES) {
      return false;
    }
    int bytes = Short.toUnsignedInt(records.get(SHORT, offset));
    int event = Short.toUnsignedInt(records.get(SHORT, offset + 2));
    if (bytes % 8 != 0
        || bytes < FIXED_BYTES
        || bytes > records.byteSize() - offset
        || FIXED_BYTES + event > bytes) {
      return false;
    }
    in = records;
    at = offset;
    length = bytes;
    return plausible();
  }

  private boolean plausible() {
    long payload = payloadBytes();
    return payload > 0
        && payload <= stride()
        && stride() <= SsdStore.MAX_SLOT_BYTES
        && generation() >= 0
        && group() >= 0
        && blockTokens() > 0
        && index() >= 0
        && spanExtents() > 0
        && eventBytes() <= SlotHeader.MAX_EVENT_BYTES
        && (hasParent() || (parentHi() | parentLo()) == 0);
  }

  int length() {
    return length;
  }

  /** The record's bytes, for as long as those of the page are there. */
  MemorySegment bytes() {
    return in.asSlice(at, length);
  }

  private int eventBytes() {
    return Short.toUnsignedInt(in.get(SHORT, at + 2));
  }

  boolean hasParent() {
    return (in.get(INT, at + 4) & FLAG_PARENT) != 0;
  }

  long sequence() {
    return in.get(LONG, at + 8);
  }

  long spanSequence() {
    return in.get(LONG, at + 16);
  }

  int spanFirst() {
    return in.get(INT, at + 24);
  }

  int spanExtents() {
    return in.get(INT, at + 28);
  }

  long stride() {
    return Integer.toUnsignedLong(in.get(INT, at + 32)) * SsdStore.PAGE_BYTES;
  }

  int index() {
    return in.get(INT, at + 36);
  }

  int sum() {
    return in.get(INT, at + 40);
  }

  long digestHi() {
    return in.get(LONG, at + 56);
  }

  long digestLo() {
    return in.get(LONG, at + 64);
  }

  int generation() {
    return in.get(INT, at + 72);
  }

  long payloadBytes() {
    return in.get(LONG, at + 104);
  }

  int group() {
    return in.get(INT, at + 76);
  }

  long keyHi() {
    return in.get(LONG, at + 80);
  }

  long keyLo() {
    return in.get(LONG, at + 88);
  }

  long layoutDigest() {
    return in.get(LONG, at + 96);
  }

  long parentHi() {
    return in.get(LONG, at + 112);
  }

  long parentLo() {
    return in.get(LONG, at + 120);
  }

  int blockTokens() {
    return in.get(INT, at + 44);
  }

  long bootEpoch() {
    return in.get(LONG, at + 48);
  }

  /** {@link SlotIdentity#digest} of whose bytes they are. */
  long identityDigest() {
    return SlotIdentity.digest(
        digestHi(),
        digestLo(),
        generation(),
        group(),
        keyHi(),
        keyLo(),
        layoutDigest(),
        payloadBytes());
  }

  byte[] eventData() {
    int event = eventBytes();
    return event == 0
        ? NO_EVENT
        : in.asSlice(at + FIXED_BYTES, event).toArray(ValueLayout.JAVA_BYTE);
  }

  SlotHeader header() {
    SlotIdentity identity =
        new SlotIdentity(
            digestHi(),
            digestLo(),
            generation(),
            group(),
            keyHi(),
            keyLo(),
            layoutDigest(),
            payloadBytes());
    return new SlotHeader(
        identity, hasParent(), parentHi(), parentLo(), blockTokens(), bootEpoch(), eventData());
  }
}
