package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * The namespace's generation after a reset.
 *
 * <pre>
 *  8        16           20       22   24
 *  +--------+------------+--------+----+
 *  | query  | generation | status | 0  |
 *  | id u64 | u32        | u16    |    |
 *  +--------+------------+--------+----+
 * </pre>
 */
public final class ResetAnswerRecord extends RecordView {
  private static final int QUERY = 8;
  private static final int GENERATION = 16;
  private static final int STATUS = 20;
  private static final int BYTES = 24;

  @Override
  int type() {
    return RecordDescriptor.TYPE_RESET_ANSWER;
  }

  @Override
  int fixedBytes() {
    return BYTES;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkLength(BYTES);
  }

  public long queryId() {
    return u64(QUERY);
  }

  public long generation() {
    return u32(GENERATION);
  }

  public int status() {
    return u16(STATUS);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(MemorySegment to, long queryId, int generation, int status) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_RESET_ANSWER);
    to.set(Wire.U64, QUERY, queryId);
    to.set(Wire.U32, GENERATION, generation);
    to.set(Wire.U32, STATUS, status & 0xFFFF);
    return BYTES;
  }
}
