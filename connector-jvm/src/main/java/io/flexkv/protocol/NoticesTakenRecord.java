package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * So many notices has a scheduler taken since its session began: the sidecar sends more only up to
 * a window. With the flag {@link Protocol#NOTICES_ANEW} it wants a listing of all that is resident.
 *
 * <pre>
 *  8            16       20       24
 *  +------------+--------+--------+
 *  | taken  u64 | flags  | 0      |
 *  |            | u32    | u32    |
 *  +------------+--------+--------+
 * </pre>
 */
public final class NoticesTakenRecord extends RecordView {
  private static final int TAKEN = 8;
  private static final int FLAGS = 16;
  private static final int BYTES = 24;

  @Override
  int type() {
    return RecordDescriptor.TYPE_NOTICES_TAKEN;
  }

  @Override
  int fixedBytes() {
    return BYTES;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkLength(BYTES);
  }

  /** Notices taken since the session began. */
  public long taken() {
    return u64(TAKEN);
  }

  /** Bits {@code Protocol.NOTICES_…}; unknown ones mean nothing. */
  public long flags() {
    return u32(FLAGS);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(MemorySegment to, long taken, int flags) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_NOTICES_TAKEN);
    to.set(Wire.U64, TAKEN, taken);
    to.set(Wire.U32, FLAGS, flags);
    to.set(Wire.U32, FLAGS + 4, 0);
    return BYTES;
  }
}
