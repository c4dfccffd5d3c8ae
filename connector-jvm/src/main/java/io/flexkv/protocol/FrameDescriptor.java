package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * A frame of the rendezvous socket: twelve bytes of header, then the payload of its type.
 *
 * <pre>
 *  0          4         6        8              12
 *  +----------+---------+--------+--------------+---- ... ----+
 *  | "FXKV"   | version | type   | payload      | payload     |
 *  |          | u16     | u16    | length u32   |             |
 *  +----------+---------+--------+--------------+---- ... ----+
 * </pre>
 */
public final class FrameDescriptor {
  public static final int HEADER_BYTES = 12;

  /** Client to sidecar, first frame; JSON. */
  public static final int HELLO = 1;

  /** Sidecar to client; JSON, carries the eventfd. */
  public static final int WELCOME = 2;

  /** Sidecar to client, then the end; JSON. */
  public static final int REFUSED = 3;

  /** Either way, in place of the rings: records, each padded to a multiple of eight. */
  public static final int RECORDS = 16;

  private static final int MAGIC_VALUE = (int) Wire.magic("FXKV\0\0\0\0");
  private static final int MAGIC = 0;
  private static final int VERSION = 4;
  private static final int TYPE = 6;
  private static final int LENGTH = 8;

  private FrameDescriptor() {}

  /**
   * Checks the magic and the payload's length; the version is the caller's to judge, because a
   * refusal has to reach peers of other versions.
   */
  public static void checkHeader(MemorySegment frame) throws ProtocolException {
    check(
        frame.byteSize() >= HEADER_BYTES,
        "frame header of %d bytes, wanted %d",
        frame.byteSize(),
        HEADER_BYTES);
    int magic = frame.get(Wire.U32, MAGIC);
    check(
        magic == MAGIC_VALUE,
        "frame magic 0x%08x, must be 0x%08x",
        Integer.toUnsignedLong(magic),
        MAGIC_VALUE);
    long length = Integer.toUnsignedLong(frame.get(Wire.U32, LENGTH));
    check(
        length <= Protocol.MAX_FRAME_BYTES,
        "frame of %d bytes, at most %d",
        length,
        Protocol.MAX_FRAME_BYTES);
  }

  public static int version(MemorySegment frame) {
    return Short.toUnsignedInt(frame.get(Wire.U16, VERSION));
  }

  public static int type(MemorySegment frame) {
    return Short.toUnsignedInt(frame.get(Wire.U16, TYPE));
  }

  /** Bytes of the payload; at most {@link Protocol#MAX_FRAME_BYTES} after the check. */
  public static int payloadBytes(MemorySegment frame) {
    return frame.get(Wire.U32, LENGTH);
  }

  /** A whole frame. */
  public static byte[] encode(int type, byte[] payload) {
    if (payload.length > Protocol.MAX_FRAME_BYTES) {
      throw new IllegalArgumentException("frame of " + payload.length + " bytes");
    }
    byte[] frame = new byte[HEADER_BYTES + payload.length];
    encodeHeader(MemorySegment.ofArray(frame), type, payload.length);
    System.arraycopy(payload, 0, frame, HEADER_BYTES, payload.length);
    return frame;
  }

  /** Writes the twelve bytes before a payload. */
  public static void encodeHeader(MemorySegment to, int type, int payloadBytes) {
    to.set(Wire.U32, MAGIC, MAGIC_VALUE);
    to.set(Wire.U16, VERSION, (short) Protocol.VERSION);
    to.set(Wire.U16, TYPE, (short) type);
    to.set(Wire.U32, LENGTH, payloadBytes);
  }
}
