package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * Stop this load; answered by a {@link JobDoneRecord} once no copy can touch memory any more.
 *
 * <pre>
 *  8            16
 *  +------------+
 *  | job id  u64 |
 *  +------------+
 * </pre>
 */
public final class RevokeRecord extends RecordView {
  private static final int ID = 8;
  private static final int BYTES = 16;

  @Override
  int type() {
    return RecordDescriptor.TYPE_REVOKE;
  }

  @Override
  int fixedBytes() {
    return BYTES;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkLength(BYTES);
  }

  /** The load to stop. */
  public long jobId() {
    return u64(ID);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(MemorySegment to, long jobId) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_REVOKE);
    to.set(Wire.U64, ID, jobId);
    return BYTES;
  }
}
