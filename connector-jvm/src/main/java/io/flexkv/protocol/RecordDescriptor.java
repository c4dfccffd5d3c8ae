package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * What all records have in common: eight bytes of header, then the body of their type.
 *
 * <pre>
 *  0          4        6        8
 *  +----------+--------+--------+---- ... ----+
 *  | length   | type   | flags  | body        |
 *  | u32      | u16    | u16 = 0|             |
 *  +----------+--------+--------+---- ... ----+
 * </pre>
 *
 * <p>The length includes the header. In a ring and in a {@code RECORDS} frame a record begins at a
 * multiple of eight; the bytes between its end and the next multiple of eight have no meaning.
 */
public final class RecordDescriptor {
  public static final int LENGTH = 0;
  public static final int TYPE = 4;
  public static final int FLAGS = 6;
  public static final int HEADER_BYTES = 8;

  /** Fills the end of a ring; no body is read. */
  public static final int TYPE_PADDING = 0;

  public static final int TYPE_EXTEND = 1;
  public static final int TYPE_LOOKUP = 2;
  public static final int TYPE_PLAN_LOAD = 3;
  public static final int TYPE_PLAN_SAVE = 4;
  public static final int TYPE_END_REQUEST = 5;
  public static final int TYPE_RESET = 6;
  public static final int TYPE_ECHO = 7;
  public static final int TYPE_NOTICES_TAKEN = 8;
  public static final int TYPE_GO = 32;
  public static final int TYPE_REVOKE = 33;
  public static final int TYPE_LOOKUP_ANSWER = 64;
  public static final int TYPE_RESET_ANSWER = 65;
  public static final int TYPE_SAVE_DONE = 66;
  public static final int TYPE_KV_NOTICE = 67;
  public static final int TYPE_ECHO_ANSWER = 68;
  public static final int TYPE_JOB_DONE = 96;

  private RecordDescriptor() {}

  /** The length field of the record at the start of {@code record}, unchecked. */
  public static long length(MemorySegment record) {
    return Integer.toUnsignedLong(record.get(Wire.U32, LENGTH));
  }

  /** The type field of the record at the start of {@code record}. */
  public static int type(MemorySegment record) {
    return Short.toUnsignedInt(record.get(Wire.U16, TYPE));
  }

  /** What a record of {@code length} bytes takes in a ring. */
  public static long aligned(long length) {
    return Wire.align8(length);
  }

  /** Writes a header; the caller has checked that the record fits. */
  static void encode(MemorySegment to, long length, int type) {
    if (length > Protocol.MAX_RECORD_BYTES) {
      throw new IllegalArgumentException(
          "record of " + length + " bytes, at most " + Protocol.MAX_RECORD_BYTES);
    }
    to.set(Wire.U32, LENGTH, (int) length);
    to.set(Wire.U16, TYPE, (short) type);
    to.set(Wire.U16, FLAGS, (short) 0);
  }

  /** Checks a header against the number of bytes that came and the type that is expected. */
  static void checkHeader(MemorySegment record, long length, int type) throws ProtocolException {
    check(length >= HEADER_BYTES, "record of %d bytes, at least %d", length, HEADER_BYTES);
    check(
        length <= Math.min(Protocol.MAX_RECORD_BYTES, record.byteSize()),
        "record of %d bytes, at most %d",
        length,
        Math.min(Protocol.MAX_RECORD_BYTES, record.byteSize()));
    check(length(record) == length, "record says %d bytes, got %d", length(record), length);
    int seen = type(record);
    check(seen == type, "record type %d, wanted %d", seen, type);
    int flags = Short.toUnsignedInt(record.get(Wire.U16, FLAGS));
    check(flags == 0, "record flags %d, must be %d", flags, 0);
  }
}
