package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * This rank's part of a job has ended: no copy of it can touch memory any more.
 *
 * <pre>
 *  8        16         24        32       36       40     42      44  48
 *  +--------+----------+---------+--------+--------+------+-------+---+
 *  | job    | boot     | bytes   | blocks | micros | kind | sta-  | 0 |
 *  | id u64 | epoch u64| moved   | ok u32 | u32    | u16  | tus   |   |
 *  +--------+----------+---------+--------+--------+------+-------+---+
 * </pre>
 */
public final class JobDoneRecord extends RecordView {
  private static final int JOB = 8;
  private static final int EPOCH = 16;
  private static final int MOVED = 24;
  private static final int BLOCKS_OK = 32;
  private static final int MICROS = 36;
  private static final int KIND = 40;
  private static final int STATUS = 42;
  private static final int RESERVED = 44;
  private static final int BYTES = 48;

  @Override
  int type() {
    return RecordDescriptor.TYPE_JOB_DONE;
  }

  @Override
  int fixedBytes() {
    return BYTES;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkLength(BYTES);
  }

  public long jobId() {
    return u64(JOB);
  }

  public long bootEpoch() {
    return u64(EPOCH);
  }

  public long bytesMoved() {
    return u64(MOVED);
  }

  /** The first so many blocks are in place, whatever the status says of the rest. */
  public long blocksOk() {
    return u32(BLOCKS_OK);
  }

  /** From the go to the end. */
  public long micros() {
    return u32(MICROS);
  }

  public int kind() {
    return u16(KIND);
  }

  /** One of {@code Protocol.STATUS_…}. */
  public int status() {
    return u16(STATUS);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(
      MemorySegment to,
      long jobId,
      long bootEpoch,
      long bytesMoved,
      int blocksOk,
      int micros,
      int kind,
      int status) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_JOB_DONE);
    to.set(Wire.U64, JOB, jobId);
    to.set(Wire.U64, EPOCH, bootEpoch);
    to.set(Wire.U64, MOVED, bytesMoved);
    to.set(Wire.U32, BLOCKS_OK, blocksOk);
    to.set(Wire.U32, MICROS, micros);
    to.set(Wire.U16, KIND, (short) kind);
    to.set(Wire.U16, STATUS, (short) status);
    to.set(Wire.U32, RESERVED, 0);
    return BYTES;
  }
}
