package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * Appends whole block hashes to a request's chain; overlap with what is known must be equal.
 *
 * <p>Tokens come with events only, before a save plan: those of the record's last blocks, which are
 * all of them, or all but the first; that one then only says whose child the second is. Extra keys
 * are empty, or hold for each block with tokens a u32 of their length and so many bytes.
 *
 * <pre>
 *  8           16        20      24      26     28         32         36    40
 *  +-----------+---------+-------+-------+------+----------+----------+-----+--------+
 *  | request   | first   | count | hash  | 0    | tokens   | extra    | 0   | hashes |
 *  | id u64    | index   | u32   | bytes | u16  | count    | bytes    | u32 | ...    |
 *  |           | u32     |       | u16   |      | u32      | u32      |     |        |
 *  +-----------+---------+-------+-------+------+----------+----------+-----+--------+
 *  then, from the next multiple of eight: tokens u32[], extra keys u8[]
 * </pre>
 */
public final class ExtendRecord extends RecordView {
  private static final int REQUEST = 8;
  private static final int FIRST = 16;
  private static final int COUNT = 20;
  private static final int HASH_BYTES = 24;
  private static final int TOKENS = 28;
  private static final int EXTRA = 32;
  private static final int HASHES = 40;

  @Override
  int type() {
    return RecordDescriptor.TYPE_EXTEND;
  }

  @Override
  int fixedBytes() {
    return HASHES;
  }

  @Override
  void checkBody() throws ProtocolException {
    int width = hashBytes();
    check(width >= Protocol.MIN_HASH_BYTES, "hash of %d bytes, at least %d", width, 16);
    check(
        width <= Protocol.MAX_HASH_BYTES,
        "hash of %d bytes, at most %d",
        width,
        Protocol.MAX_HASH_BYTES);
    long count = u32(COUNT);
    check(
        count <= Protocol.MAX_KEYS_A_RECORD,
        "%d keys, at most %d",
        count,
        Protocol.MAX_KEYS_A_RECORD);
    checkLength(tokensOffset() + 4 * u32(TOKENS) + u32(EXTRA));
  }

  /** The client's number of the request. */
  public long requestId() {
    return u64(REQUEST);
  }

  /** Chain index of the first hash. */
  public long firstIndex() {
    return u32(FIRST);
  }

  /** Number of hashes. */
  public int count() {
    return i32(COUNT);
  }

  /** Bytes of one hash, 16 to 64. */
  public int hashBytes() {
    return u16(HASH_BYTES);
  }

  /** Where the hashes begin in {@link #segment()}, one after another. */
  public long hashesOffset() {
    return HASHES;
  }

  /** Number of token ids; 0 while events are off. */
  public int tokensCount() {
    return i32(TOKENS);
  }

  /** Where the token ids (u32) begin in {@link #segment()}. */
  public long tokensOffset() {
    return Wire.align8(HASHES + (long) count() * hashBytes());
  }

  /** Bytes of the opaque extra keys. */
  public int extraBytes() {
    return i32(EXTRA);
  }

  /** Where the extra keys begin in {@link #segment()}. */
  public long extraOffset() {
    return tokensOffset() + 4L * tokensCount();
  }

  /**
   * Writes a record to the start of {@code to}.
   *
   * @param tokens u32 each
   * @return its length in bytes
   */
  public static int encode(
      MemorySegment to,
      long requestId,
      int firstIndex,
      int hashBytes,
      byte[] hashes,
      byte[] tokens,
      byte[] extraKeys) {
    if (hashes.length % hashBytes != 0
        || hashes.length / hashBytes > Protocol.MAX_KEYS_A_RECORD
        || tokens.length % 4 != 0) {
      throw new IllegalArgumentException(
          "%d bytes of hashes of %d bytes, %d bytes of tokens"
              .formatted(hashes.length, hashBytes, tokens.length));
    }
    int hashesEnd = HASHES + hashes.length;
    int tokensAt = (int) Wire.align8(hashesEnd);
    int extraAt = tokensAt + tokens.length;
    RecordDescriptor.encode(to, extraAt + (long) extraKeys.length, RecordDescriptor.TYPE_EXTEND);
    to.asSlice(REQUEST, HASHES - REQUEST).fill((byte) 0);
    to.set(Wire.U64, REQUEST, requestId);
    to.set(Wire.U32, FIRST, firstIndex);
    to.set(Wire.U32, COUNT, hashes.length / hashBytes);
    to.set(Wire.U16, HASH_BYTES, (short) hashBytes);
    to.set(Wire.U32, TOKENS, tokens.length / 4);
    to.set(Wire.U32, EXTRA, extraKeys.length);
    WireArrays.copy(hashes, to, HASHES, tokensAt);
    WireArrays.copy(tokens, to, tokensAt, extraAt);
    WireArrays.copy(extraKeys, to, extraAt, extraAt + extraKeys.length);
    return extraAt + extraKeys.length;
  }
}
