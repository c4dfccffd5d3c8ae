package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * All parts of a save are in or lost.
 *
 * <pre>
 *  8        16          20        24        28       32
 *  +--------+-----------+---------+---------+--------+
 *  | job    | committed | skipped | dropped | status |
 *  | id u64 | u32       | u32     | u32     | u32    |
 *  +--------+-----------+---------+---------+--------+
 * </pre>
 */
public final class SaveDoneRecord extends RecordView {
  private static final int JOB = 8;
  private static final int COMMITTED = 16;
  private static final int SKIPPED = 20;
  private static final int DROPPED = 24;
  private static final int STATUS = 28;
  private static final int BYTES = 32;

  @Override
  int type() {
    return RecordDescriptor.TYPE_SAVE_DONE;
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

  /** Blocks that are resident because of this save. */
  public long committed() {
    return u32(COMMITTED);
  }

  /** Blocks that were there already. */
  public long skipped() {
    return u32(SKIPPED);
  }

  /** Blocks that were lost. */
  public long dropped() {
    return u32(DROPPED);
  }

  public long status() {
    return u32(STATUS);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(
      MemorySegment to, long jobId, int committed, int skipped, int dropped, int status) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_SAVE_DONE);
    to.set(Wire.U64, JOB, jobId);
    to.set(Wire.U32, COMMITTED, committed);
    to.set(Wire.U32, SKIPPED, skipped);
    to.set(Wire.U32, DROPPED, dropped);
    to.set(Wire.U32, STATUS, status);
    return BYTES;
  }
}
