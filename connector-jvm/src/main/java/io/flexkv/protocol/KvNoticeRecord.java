package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;

/**
 * Blocks entered or left a tier, in the engine's own hashes: the raw material of KV events.
 *
 * <p>Stored blocks of a record are a chain: parent is that of the first, each block is the next
 * one's; tokens are those of all of them. Extra keys are empty, or hold for each block a u32 of
 * their length and so many bytes. Hashes of evicted blocks are of 16 bytes, of which the last 8
 * count. The other kinds name no blocks.
 *
 * <pre>
 *  8      10     12      14      16      20       24       28      32
 *  +------+------+-------+-------+-------+--------+--------+-------+--------+--------+
 *  | kind | tier | group | hash  | count | parent | tokens | extra | hashes | parent |
 *  | u16  | u16  | u16   | bytes | u32   | bytes  | count  | bytes | ...    | ...    |
 *  +------+------+-------+-------+-------+--------+--------+-------+--------+--------+
 *  then, from the next multiple of eight: tokens u32[], extra keys u8[]
 * </pre>
 */
public final class KvNoticeRecord extends RecordView {
  private static final int KIND = 8;
  private static final int TIER = 10;
  private static final int GROUP = 12;
  private static final int HASH_BYTES = 14;
  private static final int COUNT = 16;
  private static final int PARENT_BYTES = 20;
  private static final int TOKENS = 24;
  private static final int EXTRA = 28;
  private static final int HASHES = 32;

  @Override
  int type() {
    return RecordDescriptor.TYPE_KV_NOTICE;
  }

  @Override
  int fixedBytes() {
    return HASHES;
  }

  @Override
  void checkBody() throws ProtocolException {
    int width = hashBytes();
    check(
        width >= Protocol.MIN_HASH_BYTES && width <= Protocol.MAX_HASH_BYTES,
        "hash of %d bytes, at most %d",
        width,
        Protocol.MAX_HASH_BYTES);
    long count = u32(COUNT);
    check(
        count <= Protocol.MAX_KEYS_A_RECORD,
        "%d keys, at most %d",
        count,
        Protocol.MAX_KEYS_A_RECORD);
    long parent = u32(PARENT_BYTES);
    check(parent == 0 || parent == width, "parent of %d bytes, wanted 0 or %d", parent, width);
    checkLength(tokensOffset() + 4 * u32(TOKENS) + u32(EXTRA));
  }

  public int kind() {
    return u16(KIND);
  }

  public int tier() {
    return u16(TIER);
  }

  public int group() {
    return u16(GROUP);
  }

  public int hashBytes() {
    return u16(HASH_BYTES);
  }

  public int count() {
    return i32(COUNT);
  }

  /** 0 at the root of a chain, else the same as {@link #hashBytes()}. */
  public int parentBytes() {
    return i32(PARENT_BYTES);
  }

  public long hashesOffset() {
    return HASHES;
  }

  public long parentOffset() {
    return HASHES + (long) count() * hashBytes();
  }

  public int tokensCount() {
    return i32(TOKENS);
  }

  public long tokensOffset() {
    return Wire.align8(parentOffset() + parentBytes());
  }

  public int extraBytes() {
    return i32(EXTRA);
  }

  public long extraOffset() {
    return tokensOffset() + 4L * tokensCount();
  }

  /**
   * Writes a record to the start of {@code to}.
   *
   * @param parent empty at the root of a chain
   * @param tokens u32 each
   * @return its length in bytes
   */
  public static int encode(
      MemorySegment to,
      int kind,
      int tier,
      int group,
      int hashBytes,
      ByteBuffer hashes,
      ByteBuffer parent,
      ByteBuffer tokens,
      ByteBuffer extraKeys) {
    int width = parent.remaining();
    if (hashes.remaining() % hashBytes != 0
        || hashes.remaining() / hashBytes > Protocol.MAX_KEYS_A_RECORD
        || (width != 0 && width != hashBytes)
        || tokens.remaining() % 4 != 0) {
      throw new IllegalArgumentException(
          "%d bytes of hashes of %d bytes, parent of %d bytes, %d bytes of tokens"
              .formatted(hashes.remaining(), hashBytes, width, tokens.remaining()));
    }
    int parentAt = HASHES + hashes.remaining();
    int tokensAt = (int) Wire.align8(parentAt + (long) width);
    int extraAt = tokensAt + tokens.remaining();
    int end = extraAt + extraKeys.remaining();
    RecordDescriptor.encode(to, end, RecordDescriptor.TYPE_KV_NOTICE);
    to.set(Wire.U16, KIND, (short) kind);
    to.set(Wire.U16, TIER, (short) tier);
    to.set(Wire.U16, GROUP, (short) group);
    to.set(Wire.U16, HASH_BYTES, (short) hashBytes);
    to.set(Wire.U32, COUNT, hashes.remaining() / hashBytes);
    to.set(Wire.U32, PARENT_BYTES, width);
    to.set(Wire.U32, TOKENS, tokens.remaining() / 4);
    to.set(Wire.U32, EXTRA, extraKeys.remaining());
    WireArrays.copy(hashes, to, HASHES, parentAt);
    WireArrays.copy(parent, to, parentAt, tokensAt);
    WireArrays.copy(tokens, to, tokensAt, extraAt);
    WireArrays.copy(extraKeys, to, extraAt, end);
    return end;
  }
}
