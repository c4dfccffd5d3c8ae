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
 * A view without a copy: {@link #bytes} begins at the record.
 */
record HeaderRecord(MemorySegment bytes) {
  static final int FIXED_BYTES = 128;
  private static final int FLAG_PARENT = 1;

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
   * The record at {@code at} of a page's records; null if what is there cannot be one.
   *
   * <p>A page that passed its checksum holds none such; this is for pages that somebody made.
   */
  static @org.jspecify.annotations.Nullable HeaderRecord at(MemorySegment records, long at) {
    if (records.byteSize() - at < FIXED_BYTES) {
      return null;
    }
    int length = Short.toUnsignedInt(records.get(SHORT, at));
    int event = Short.toUnsignedInt(records.get(SHORT, at + 2));
    if (length % 8 != 0
        || length < FIXED_BYTES
        || length > records.byteSize() - at
        || FIXED_BYTES + event > length) {
      return null;
    }
    HeaderRecord record = new HeaderRecord(records.asSlice(at, length));
    return record.plausible() ? record : null;
  }

  private boolean plausible() {
    long payload = payloadBytes();
    return payload > 0
        && payload <= stride()
        && stride() <= SsdStore.MAX_SLOT_BYTES
        && generation() >= 0
        && bytes.get(INT, 76) >= 0
        && bytes.get(INT, 44) > 0
        && index() >= 0
        && spanExtents() > 0
        && eventBytes() <= SlotHeader.MAX_EVENT_BYTES
        && (hasParent() || (bytes.get(LONG, 112) | bytes.get(LONG, 120)) == 0);
  }

  int length() {
    return Math.toIntExact(bytes.byteSize());
  }

  private int eventBytes() {
    return Short.toUnsignedInt(bytes.get(SHORT, 2));
  }

  boolean hasParent() {
    return (bytes.get(INT, 4) & FLAG_PARENT) != 0;
  }

  long sequence() {
    return bytes.get(LONG, 8);
  }

  long spanSequence() {
    return bytes.get(LONG, 16);
  }

  int spanFirst() {
    return bytes.get(INT, 24);
  }

  int spanExtents() {
    return bytes.get(INT, 28);
  }

  long stride() {
    return Integer.toUnsignedLong(bytes.get(INT, 32)) * SsdStore.PAGE_BYTES;
  }

  int index() {
    return bytes.get(INT, 36);
  }

  int sum() {
    return bytes.get(INT, 40);
  }

  long digestHi() {
    return bytes.get(LONG, 56);
  }

  long digestLo() {
    return bytes.get(LONG, 64);
  }

  int generation() {
    return bytes.get(INT, 72);
  }

  long payloadBytes() {
    return bytes.get(LONG, 104);
  }

  SlotIdentity identity() {
    return new SlotIdentity(
        digestHi(),
        digestLo(),
        generation(),
        bytes.get(INT, 76),
        bytes.get(LONG, 80),
        bytes.get(LONG, 88),
        bytes.get(LONG, 96),
        payloadBytes());
  }

  SlotHeader header() {
    return new SlotHeader(
        identity(),
        hasParent(),
        bytes.get(LONG, 112),
        bytes.get(LONG, 120),
        bytes.get(INT, 44),
        bytes.get(LONG, 48),
        bytes.asSlice(FIXED_BYTES, eventBytes()).toArray(ValueLayout.JAVA_BYTE));
  }
}
