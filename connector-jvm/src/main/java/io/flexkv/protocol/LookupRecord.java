package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * How deep can this request's chain be served?
 *
 * <pre>
 *  8         16        24       28       32       36      38   40
 *  +---------+---------+--------+--------+--------+-------+----+
 *  | query   | request | chain  | first  | max    | group | 0  |
 *  | id u64  | id u64  | blocks | block  | blocks | u16   |    |
 *  +---------+---------+--------+--------+--------+-------+----+
 * </pre>
 */
public final class LookupRecord extends RecordView {
  private static final int QUERY = 8;
  private static final int REQUEST = 16;
  private static final int CHAIN = 24;
  private static final int FIRST = 28;
  private static final int MOST = 32;
  private static final int GROUP = 36;
  private static final int BYTES = 40;

  @Override
  int type() {
    return RecordDescriptor.TYPE_LOOKUP;
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
    return u64(QUERY);
  }

  /** The client's number of the request. */
  public long requestId() {
    return u64(REQUEST);
  }

  /** Keys the client has sent; a sidecar that holds fewer answers {@code LOOKUP_UNKNOWN}. */
  public long chainBlocks() {
    return u32(CHAIN);
  }

  /** Blocks that are there locally. */
  public long firstBlock() {
    return u32(FIRST);
  }

  /** At most this many beyond {@link #firstBlock} are wanted. */
  public long maxBlocks() {
    return u32(MOST);
  }

  /** KV group. */
  public int group() {
    return u16(GROUP);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(
      MemorySegment to,
      long queryId,
      long requestId,
      int chainBlocks,
      int firstBlock,
      int maxBlocks,
      int group) {
    RecordDescriptor.encode(to, BYTES, RecordDescriptor.TYPE_LOOKUP);
    to.set(Wire.U64, QUERY, queryId);
    to.set(Wire.U64, REQUEST, requestId);
    to.set(Wire.U32, CHAIN, chainBlocks);
    to.set(Wire.U32, FIRST, firstBlock);
    to.set(Wire.U32, MOST, maxBlocks);
    to.set(Wire.U32, GROUP, group & 0xFFFF);
    return BYTES;
  }
}
