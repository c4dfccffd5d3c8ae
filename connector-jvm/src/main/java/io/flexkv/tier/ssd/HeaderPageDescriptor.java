package io.flexkv.tier.ssd;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/**
 * A page of the header log: the headers of many slots, side by side, so that a block on disk is its
 * payload and about 200 bytes more. Little-endian.
 *
 * <pre>
 *    0 u64 magic "FKVHEAD1"
 *    8 u64 directory id (random, new at each format)
 *   16 u64 use: how often an extent had been given to the log, this one included; greater = later
 *   24 u32 extent       28 u32 page within the extent
 *   32 u32 records      36 u32 bytes of them
 *   40     records, one after another, each a multiple of 8 bytes
 * 4092 u32 CRC32C of the 4092 bytes before
 * </pre>
 *
 * A page is written once, as a whole. Since it names its place, one that lies elsewhere is none.
 */
final class HeaderPageDescriptor {
  static final int BYTES = SsdStore.PAGE_BYTES;
  static final int RECORDS_OFFSET = 40;
  static final int CRC_OFFSET = BYTES - 4;

  /** Room for records. */
  static final int RECORDS_BYTES = CRC_OFFSET / 8 * 8 - RECORDS_OFFSET;

  static final ValueLayout.OfLong LONG =
      ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  static final ValueLayout.OfInt INT =
      ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  static final ValueLayout.OfShort SHORT =
      ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  /** "FKVHEAD1", the last character being the version of page and records. */
  private static final long MAGIC = 0x3144414548564B46L;

  private HeaderPageDescriptor() {}

  /** Fills in everything but the records, and zeroes what lies behind them. */
  static void seal(
      MemorySegment page, long directoryId, long use, int extent, int index, int count, int bytes) {
    page.asSlice(RECORDS_OFFSET + bytes, BYTES - RECORDS_OFFSET - bytes).fill((byte) 0);
    page.set(LONG, 0, MAGIC);
    page.set(LONG, 8, directoryId);
    page.set(LONG, 16, use);
    page.set(INT, 24, extent);
    page.set(INT, 28, index);
    page.set(INT, 32, count);
    page.set(INT, 36, bytes);
    page.set(INT, CRC_OFFSET, Checksums.of(page.asSlice(0, CRC_OFFSET)));
  }

  /** Whether a page is whole, this directory's, and where it says it is. */
  static boolean valid(MemorySegment page, long directoryId, int extent, int index) {
    return page.get(LONG, 0) == MAGIC
        && page.get(LONG, 8) == directoryId
        && page.get(INT, 24) == extent
        && page.get(INT, 28) == index
        && page.get(INT, 36) >= 0
        && page.get(INT, 36) <= RECORDS_BYTES
        && page.get(INT, CRC_OFFSET) == Checksums.of(page.asSlice(0, CRC_OFFSET));
  }

  /** Whether a page has no bytes at all: never written. */
  static boolean blank(MemorySegment page) {
    for (int at = 0; at < BYTES; at += 8) {
      if (page.get(LONG, at) != 0) {
        return false;
      }
    }
    return page.get(JAVA_BYTE, 0) == 0;
  }

  static long use(MemorySegment page) {
    return page.get(LONG, 16);
  }

  static int count(MemorySegment page) {
    return page.get(INT, 32);
  }

  /** The records of a valid page. */
  static MemorySegment records(MemorySegment page) {
    return page.asSlice(RECORDS_OFFSET, page.get(INT, 36));
  }
}
