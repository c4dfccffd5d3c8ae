package io.flexkv.events;

import static java.lang.foreign.ValueLayout.JAVA_INT_UNALIGNED;
import static java.lang.foreign.ValueLayout.JAVA_LONG_UNALIGNED;
import static java.lang.foreign.ValueLayout.JAVA_SHORT_UNALIGNED;

import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/**
 * One block's facts, in a slab outside the heap: what an event must say of it, and where it is.
 *
 * <pre>
 *  0            8            16         20       24       26      28       32
 *  +------------+------------+----------+--------+--------+-------+--------+------+--------+--------+
 *  | event hash | sequence   | previous | next   | tiers  | group | parent | hash | parent | tokens |
 *  | u64        | u64        | i32      | i32    | u16    | u16   | bytes  | ...  | ...    | u32[]  |
 *  +------------+------------+----------+--------+--------+-------+--------+------+--------+--------+
 * </pre>
 *
 * <p>The event hash is the last 8 bytes of the hash, big-endian. Sequence is the order in which
 * blocks first entered a tier, 0 while none has it. Bit <em>t</em> of tiers is set while tier
 * <em>t</em> holds the block. Hash and parent have the namespace's hash width each; parent bytes is
 * that width, or 0 at the root of a chain.
 */
final class FactDescriptor {
  static final ValueLayout.OfLong HASH_WORD = JAVA_LONG_UNALIGNED.withOrder(ByteOrder.BIG_ENDIAN);
  static final ValueLayout.OfLong U64 = JAVA_LONG_UNALIGNED;
  static final ValueLayout.OfInt I32 = JAVA_INT_UNALIGNED;
  static final ValueLayout.OfShort U16 = JAVA_SHORT_UNALIGNED;

  static final int EVENT_HASH = 0;
  static final int SEQUENCE = 8;
  static final int PREVIOUS = 16;
  static final int NEXT = 20;
  static final int TIERS = 24;
  static final int GROUP = 26;
  static final int PARENT_BYTES = 28;
  static final int HASH = 32;

  /** Tiers that can be told apart: bits of {@link #TIERS}. */
  static final int MAX_TIERS = 8;

  private FactDescriptor() {}

  /** Bytes of a fact, a multiple of 8. */
  static int stride(int hashBytes, int blockTokens) {
    return Math.toIntExact((HASH + 2L * hashBytes + 4L * blockTokens + 7) & ~7L);
  }
}
