package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * This rank's part of a job may start once its fence is reached.
 *
 * <pre>
 *  8        16         24      28       32         36      38      40
 *  +--------+----------+-------+--------+----------+-------+-------+
 *  | job    | fence    | fence | revoke | deadline | kind  | fence |
 *  | id u64 | sequence | index | index  | ms u32   | u16   | kind  |
 *  |        | u64      | u32   | u32    |          |       | u16   |
 *  +--------+----------+-------+--------+----------+-------+-------+
 * </pre>
 */
public final class GoRecord extends RecordView {
  private static final int JOB = 8;
  private static final int SEQUENCE = 16;
  private static final int FENCE = 24;
  private static final int REVOKE = 28;
  private static final int DEADLINE = 32;
  private static final int KIND = 36;
  private static final int FENCE_KIND = 38;
  private static final int BYTES = 40;

  @Override
  int type() {
    return RecordDescriptor.TYPE_GO;
  }

  @Override
  int fixedBytes() {
    return BYTES;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkLength(BYTES);
    check(
        kind() == Protocol.KIND_LOAD || kind() == Protocol.KIND_SAVE,
        "job kind %d, at most %d",
        kind(),
        Protocol.KIND_SAVE);
    check(
        fenceKind() <= Protocol.FENCE_EVENT,
        "fence kind %d, at most %d",
        fenceKind(),
        Protocol.FENCE_EVENT);
  }

  public long jobId() {
    return u64(JOB);
  }

  /** Sequence number of the recorded event. */
  public long fenceSequence() {
    return u64(SEQUENCE);
  }

  /** Index of the event in the ring handed over at registration. */
  public long fenceIndex() {
    return u32(FENCE);
  }

  /** Index of the revoke word in the session file, {@link Protocol#NO_INDEX} for a save. */
  public long revokeIndex() {
    return u32(REVOKE);
  }

  /** Milliseconds from the arrival of this record. */
  public long deadlineMillis() {
    return u32(DEADLINE);
  }

  /** {@link Protocol#KIND_LOAD} or {@link Protocol#KIND_SAVE}. */
  public int kind() {
    return u16(KIND);
  }

  /** {@link Protocol#FENCE_NONE} or {@link Protocol#FENCE_EVENT}. */
  public int fenceKind() {
    return u16(FENCE_KIND);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(
      MemorySegment to,
      long jobId,
      long fenceSequence,
      int fenceIndex,
      int revokeIndex,
      int deadlineMillis,
      int kind,
      int fenceKind) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_GO);
    to.set(Wire.U64, JOB, jobId);
    to.set(Wire.U64, SEQUENCE, fenceSequence);
    to.set(Wire.U32, FENCE, fenceIndex);
    to.set(Wire.U32, REVOKE, revokeIndex);
    to.set(Wire.U32, DEADLINE, deadlineMillis);
    to.set(Wire.U16, KIND, (short) kind);
    to.set(Wire.U16, FENCE_KIND, (short) fenceKind);
    return BYTES;
  }
}
