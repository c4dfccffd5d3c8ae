package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * The request is over: its chain and an unpinned lease may go; planned jobs live on.
 *
 * <pre>
 *  8            16
 *  +------------+
 *  | request u64 |
 *  +------------+
 * </pre>
 */
public final class EndRequestRecord extends RecordView {
  private static final int ID = 8;
  private static final int BYTES = 16;

  @Override
  int type() {
    return RecordDescriptor.TYPE_END_REQUEST;
  }

  @Override
  int fixedBytes() {
    return BYTES;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkLength(BYTES);
  }

  /** The client's number of the request. */
  public long requestId() {
    return u64(ID);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(MemorySegment to, long requestId) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_END_REQUEST);
    to.set(Wire.U64, ID, requestId);
    return BYTES;
  }
}
