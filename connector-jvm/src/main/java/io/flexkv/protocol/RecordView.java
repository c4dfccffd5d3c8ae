package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * A reusable view of one record, checked once in {@link #wrap} and read without allocation.
 *
 * <p>The bytes must not change after {@code wrap}: a record from a ring, whose writer is not
 * trusted, is copied out first ({@link SpscRingReader#read}). Owned by one thread. Fields of 32
 * unsigned bits are returned as {@code long}, those whose limit {@code wrap} checks as {@code int}.
 */
public abstract class RecordView {
  private MemorySegment record = MemorySegment.NULL;
  private long length;

  RecordView() {}

  /**
   * Looks at the record at the start of {@code record}.
   *
   * @param length how many bytes came; the header must say the same
   * @throws ProtocolException if a length, a type or a limit does not hold; the view must then not
   *     be read
   */
  public final void wrap(MemorySegment record, long length) throws ProtocolException {
    RecordDescriptor.checkHeader(record, length, type());
    this.record = record;
    this.length = length;
    check(length >= fixedBytes(), "record of %d bytes, at least %d", length, fixedBytes());
    checkBody();
  }

  /** The record type this view reads. */
  abstract int type();

  /** Bytes of header and fixed fields. */
  abstract int fixedBytes();

  /** Checks what follows from the fields; the fixed ones are there. */
  abstract void checkBody() throws ProtocolException;

  final void checkLength(long wanted) throws ProtocolException {
    check(length == wanted, "record of %d bytes, its fields say %d", length, wanted);
  }

  /** The memory that holds the record, from its header on. */
  public final MemorySegment segment() {
    return record;
  }

  /** Bytes of the record, header included. */
  public final long length() {
    return length;
  }

  final long u64(long offset) {
    return record.get(Wire.U64, offset);
  }

  final long u32(long offset) {
    return Integer.toUnsignedLong(record.get(Wire.U32, offset));
  }

  final int i32(long offset) {
    return record.get(Wire.U32, offset);
  }

  final int u16(long offset) {
    return Short.toUnsignedInt(record.get(Wire.U16, offset));
  }
}
