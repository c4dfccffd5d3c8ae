package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * Depths in blocks from the start of the chain.
 *
 * <pre>
 *  8        16        24       32     36       40       44     48    52     56     58    60  64
 *  +--------+---------+--------+------+--------+--------+------+-----+------+------+-----+---+
 *  | query  | request | lease  | gen. | serv-  | resi-  | host | ssd | re-  | sta- | gr- | 0 |
 *  | id u64 | id u64  | id u64 | u32  | able   | dent   | u32  | u32 | mote | tus  | oup |   |
 *  +--------+---------+--------+------+--------+--------+------+-----+------+------+-----+---+
 * </pre>
 */
public final class LookupAnswerRecord extends RecordView {
  private static final int QUERY = 8;
  private static final int REQUEST = 16;
  private static final int LEASE = 24;
  private static final int GENERATION = 32;
  private static final int SERVABLE = 36;
  private static final int RESIDENT = 40;
  private static final int HOST = 44;
  private static final int SSD = 48;
  private static final int REMOTE = 52;
  private static final int STATUS = 56;
  private static final int GROUP = 58;
  private static final int RESERVED = 60;
  private static final int BYTES = 64;

  @Override
  int type() {
    return RecordDescriptor.TYPE_LOOKUP_ANSWER;
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

  public long requestId() {
    return u64(REQUEST);
  }

  /** 0 = nothing beyond the first block asked for. */
  public long leaseId() {
    return u64(LEASE);
  }

  public long generation() {
    return u32(GENERATION);
  }

  /** Can be loaded now under the lease. */
  public long servable() {
    return u32(SERVABLE);
  }

  /** Also counts blocks whose save is on its way: a save plan starts there. */
  public long resident() {
    return u32(RESIDENT);
  }

  /** Depth down to the host tier. */
  public long host() {
    return u32(HOST);
  }

  /** Depth down to the SSD tier. */
  public long ssd() {
    return u32(SSD);
  }

  /** Depth down to the remote tier. */
  public long remote() {
    return u32(REMOTE);
  }

  /** One of {@code Protocol.LOOKUP_…}. */
  public int status() {
    return u16(STATUS);
  }

  public int group() {
    return u16(GROUP);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(
      MemorySegment to,
      long queryId,
      long requestId,
      long leaseId,
      int generation,
      int servable,
      int resident,
      int host,
      int ssd,
      int remote,
      int status,
      int group) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_LOOKUP_ANSWER);
    to.set(Wire.U64, QUERY, queryId);
    to.set(Wire.U64, REQUEST, requestId);
    to.set(Wire.U64, LEASE, leaseId);
    to.set(Wire.U32, GENERATION, generation);
    to.set(Wire.U32, SERVABLE, servable);
    to.set(Wire.U32, RESIDENT, resident);
    to.set(Wire.U32, HOST, host);
    to.set(Wire.U32, SSD, ssd);
    to.set(Wire.U32, REMOTE, remote);
    to.set(Wire.U16, STATUS, (short) status);
    to.set(Wire.U16, GROUP, (short) group);
    to.set(Wire.U32, RESERVED, 0);
    return BYTES;
  }
}
