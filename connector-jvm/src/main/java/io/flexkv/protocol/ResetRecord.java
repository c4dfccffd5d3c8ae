package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * Raise the generation of the instance's namespace: nothing saved before is served again.
 *
 * <pre>
 *  8            16
 *  +------------+
 *  | query   u64 |
 *  +------------+
 * </pre>
 */
public final class ResetRecord extends RecordView {
  private static final int ID = 8;
  private static final int BYTES = 16;

  @Override
  int type() {
    return RecordDescriptor.TYPE_RESET;
  }

  @Override
  int fixedBytes() {
    return BYTES;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkLength(BYTES);
  }

  /** Comes back in the answer. */
  public long queryId() {
    return u64(ID);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(MemorySegment to, long queryId) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_RESET);
    to.set(Wire.U64, ID, queryId);
    return BYTES;
  }
}
