package io.flexkv.cache;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.Objects;

/**
 * The 128-bit key of a block in the index: the last 16 bytes of vLLM's block hash, mixed with the
 * namespace's digest, its generation and the KV group id (see {@link KeySalt}).
 *
 * @param hi the upper 64 bits
 * @param lo the lower 64 bits
 */
public record BlockKey(long hi, long lo) {
  /** The shortest block hash that is taken, in bytes. */
  public static final int MIN_HASH_BYTES = 16;

  /** The longest block hash that is taken, in bytes. */
  public static final int MAX_HASH_BYTES = 64;

  static final ValueLayout.OfLong WORD =
      ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.BIG_ENDIAN);

  /**
   * The key of the block whose hash lies at {@code offset} in {@code hash}.
   *
   * @param digestHi upper half of the namespace's digest
   * @param digestLo lower half of the namespace's digest
   * @param generation the namespace's generation
   * @param group KV group id
   * @param hash holds vLLM's whole block hash
   * @param offset where the hash begins, in bytes
   * @param length the hash's length in bytes, {@value #MIN_HASH_BYTES} to {@value #MAX_HASH_BYTES}
   * @throws IllegalArgumentException if {@code length} is out of bounds
   * @throws IndexOutOfBoundsException if the hash does not lie within {@code hash}
   */
  public static BlockKey of(
      long digestHi,
      long digestLo,
      int generation,
      int group,
      MemorySegment hash,
      long offset,
      int length) {
    if (length < MIN_HASH_BYTES || length > MAX_HASH_BYTES) {
      throw new IllegalArgumentException(
          "block hash of %d bytes, expected %d to %d"
              .formatted(length, MIN_HASH_BYTES, MAX_HASH_BYTES));
    }
    Objects.checkFromIndexSize(offset, length, hash.byteSize());
    long end = offset + length;
    KeyProbe probe =
        new KeyProbe()
            .set(
                KeySalt.of(digestHi, digestLo, generation, group),
                hash.get(WORD, end - 16),
                hash.get(WORD, end - 8));
    return new BlockKey(probe.hi(), probe.lo());
  }

  /** As {@link #of(long, long, int, int, MemorySegment, long, int)}, from an array. */
  public static BlockKey of(
      long digestHi,
      long digestLo,
      int generation,
      int group,
      byte[] hash,
      int offset,
      int length) {
    return of(digestHi, digestLo, generation, group, MemorySegment.ofArray(hash), offset, length);
  }
}
