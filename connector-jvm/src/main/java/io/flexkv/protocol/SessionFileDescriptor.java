package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * The session file: one sealed memfd a session, made by the client and sent with {@code HELLO}.
 *
 * <pre>
 *         0        8       12       16        24        32      36      40
 *         +--------+--------+--------+---------+---------+-------+-------+
 *         | magic  | layout | header | boot    | session | pid   | role  |
 *         | u64    | u32    | u32    | epoch   | id u64  | u32   | u32   |
 *         +--------+--------+--------+---------+---------+-------+-------+
 *        40        48        56        64        72        80      84     88      96      104
 *         +---------+---------+---------+---------+---------+-------+------+-------+-------+
 *         | to_srv  | to_srv  | to_cli  | to_cli  | revoke  | revoke| fence| fence | total |
 *         | offset  | capacity| offset  | capacity| offset  | count | count| offset| bytes |
 *         +---------+---------+---------+---------+---------+-------+------+-------+-------+
 *       128  to the sidecar: tail u64   (client)       256  head u64  (sidecar)
 *       384  to the client:  tail u64   (sidecar)      512  head u64  (client)
 *       640  sleeping u32               (sidecar; 1 = a record needs the eventfd)
 *      4096  ring to the sidecar, ring to the client, revoke words u64[], fence-seen words u64[]
 * </pre>
 *
 * <p>Each counter that one side writes lies on cache lines of its own. The client may write
 * anything anywhere at any time: {@link #geometry} reads every field once, checks it, and what it
 * returns is the only source of offsets afterwards.
 */
public final class SessionFileDescriptor {
  public static final int HEADER_BYTES = 4096;
  public static final int TO_SERVER_TAIL = 128;
  public static final int TO_SERVER_HEAD = 256;
  public static final int TO_CLIENT_TAIL = 384;
  public static final int TO_CLIENT_HEAD = 512;
  public static final int SLEEPING = 640;

  /** Rings are powers of two between these, so that every lawful record fits twice or never. */
  public static final long MIN_RING_BYTES = 4096;

  public static final long MAX_RING_BYTES = 64L << 20;

  /** At most so many revoke words, and as many fence-seen words. */
  public static final int MAX_WORDS = 65_536;

  private static final long MAGIC_VALUE = Wire.magic("FXKVRNG1");
  private static final int MAGIC = 0;
  private static final int LAYOUT_VERSION = 8;
  private static final int HEADER = 12;
  private static final int BOOT_EPOCH = 16;
  private static final int SESSION_ID = 24;
  private static final int CLIENT_PID = 32;
  private static final int ROLE = 36;
  private static final int TO_SERVER_OFFSET = 40;
  private static final int TO_SERVER_CAPACITY = 48;
  private static final int TO_CLIENT_OFFSET = 56;
  private static final int TO_CLIENT_CAPACITY = 64;
  private static final int REVOKE_OFFSET = 72;
  private static final int REVOKE_COUNT = 80;
  private static final int FENCE_COUNT = 84;
  private static final int FENCE_OFFSET = 88;
  private static final int TOTAL_BYTES = 96;

  private SessionFileDescriptor() {}

  /**
   * Sizes of a session file, and what follows from them.
   *
   * @param role one of {@code Protocol.ROLE_…}
   * @param toServerCapacity bytes of the ring to the sidecar
   * @param toClientCapacity bytes of the ring to the client
   * @param revokeCount revoke words
   * @param fenceCount fence-seen words
   */
  public record Geometry(
      int role,
      int clientPid,
      long toServerCapacity,
      long toClientCapacity,
      int revokeCount,
      int fenceCount) {
    public long toServerOffset() {
      return HEADER_BYTES;
    }

    public long toClientOffset() {
      return toServerOffset() + toServerCapacity;
    }

    public long revokeOffset() {
      return toClientOffset() + toClientCapacity;
    }

    public long fenceOffset() {
      return revokeOffset() + 8L * revokeCount;
    }

    /** Length of the file, a multiple of the page size. */
    public long totalBytes() {
      return (fenceOffset() + 8L * fenceCount + 4095) & ~4095L;
    }
  }

  /** Reads and checks the header of a mapped file; the mapping must be as long as the file. */
  public static Geometry geometry(MemorySegment file) throws ProtocolException {
    check(
        file.byteSize() >= HEADER_BYTES,
        "session file of %d bytes, at least %d",
        file.byteSize(),
        HEADER_BYTES);
    long magic = file.get(Wire.U64, MAGIC);
    check(magic == MAGIC_VALUE, "session file magic 0x%x, must be 0x%x", magic, MAGIC_VALUE);
    equal("layout version", u32(file, LAYOUT_VERSION), Protocol.VERSION);
    equal("header bytes", u32(file, HEADER), HEADER_BYTES);
    Geometry seen =
        new Geometry(
            (int) limited("role", u32(file, ROLE), Protocol.ROLE_SCHEDULER, Protocol.ROLE_TOOL),
            (int) limited("client pid", u32(file, CLIENT_PID), 1, Integer.MAX_VALUE),
            ring("to_server capacity", file.get(Wire.U64, TO_SERVER_CAPACITY)),
            ring("to_client capacity", file.get(Wire.U64, TO_CLIENT_CAPACITY)),
            (int) limited("revoke count", u32(file, REVOKE_COUNT), 0, MAX_WORDS),
            (int) limited("fence count", u32(file, FENCE_COUNT), 0, MAX_WORDS));
    equal("to_server offset", file.get(Wire.U64, TO_SERVER_OFFSET), seen.toServerOffset());
    equal("to_client offset", file.get(Wire.U64, TO_CLIENT_OFFSET), seen.toClientOffset());
    equal("revoke offset", file.get(Wire.U64, REVOKE_OFFSET), seen.revokeOffset());
    equal("fence offset", file.get(Wire.U64, FENCE_OFFSET), seen.fenceOffset());
    equal("total bytes", file.get(Wire.U64, TOTAL_BYTES), seen.totalBytes());
    equal("file length", file.byteSize(), seen.totalBytes());
    return seen;
  }

  /** Writes a header; epoch and session id stay 0 until {@link #writeIdentity}. */
  public static void writeGeometry(MemorySegment file, Geometry geometry) {
    file.set(Wire.U64, MAGIC, MAGIC_VALUE);
    file.set(Wire.U32, LAYOUT_VERSION, Protocol.VERSION);
    file.set(Wire.U32, HEADER, HEADER_BYTES);
    file.set(Wire.U64, BOOT_EPOCH, 0);
    file.set(Wire.U64, SESSION_ID, 0);
    file.set(Wire.U32, CLIENT_PID, geometry.clientPid());
    file.set(Wire.U32, ROLE, geometry.role());
    file.set(Wire.U64, TO_SERVER_OFFSET, geometry.toServerOffset());
    file.set(Wire.U64, TO_SERVER_CAPACITY, geometry.toServerCapacity());
    file.set(Wire.U64, TO_CLIENT_OFFSET, geometry.toClientOffset());
    file.set(Wire.U64, TO_CLIENT_CAPACITY, geometry.toClientCapacity());
    file.set(Wire.U64, REVOKE_OFFSET, geometry.revokeOffset());
    file.set(Wire.U32, REVOKE_COUNT, geometry.revokeCount());
    file.set(Wire.U32, FENCE_COUNT, geometry.fenceCount());
    file.set(Wire.U64, FENCE_OFFSET, geometry.fenceOffset());
    file.set(Wire.U64, TOTAL_BYTES, geometry.totalBytes());
  }

  /** Fills in what is the sidecar's to say, before {@code WELCOME} is sent. */
  public static void writeIdentity(MemorySegment file, long bootEpoch, int sessionId) {
    file.set(Wire.U64, SESSION_ID, sessionId);
    SharedWords.setRelease(file, BOOT_EPOCH, bootEpoch);
  }

  public static long bootEpoch(MemorySegment file) {
    return file.get(Wire.U64, BOOT_EPOCH);
  }

  public static long sessionId(MemorySegment file) {
    return file.get(Wire.U64, SESSION_ID);
  }

  private static long u32(MemorySegment file, int offset) {
    return Integer.toUnsignedLong(file.get(Wire.U32, offset));
  }

  private static long ring(String name, long bytes) throws ProtocolException {
    limited(name, bytes, MIN_RING_BYTES, MAX_RING_BYTES);
    if (Long.bitCount(bytes) != 1) {
      throw new ProtocolException("session file: " + name + "=" + bytes + ", not a power of two");
    }
    return bytes;
  }

  private static long limited(String name, long seen, long least, long most)
      throws ProtocolException {
    if (seen < least || seen > most) {
      throw new ProtocolException(
          "session file: %s=%d, must be %d to %d".formatted(name, seen, least, most));
    }
    return seen;
  }

  private static void equal(String name, long seen, long wanted) throws ProtocolException {
    if (seen != wanted) {
      throw new ProtocolException("session file: %s=%d, must be %d".formatted(name, seen, wanted));
    }
  }
}
