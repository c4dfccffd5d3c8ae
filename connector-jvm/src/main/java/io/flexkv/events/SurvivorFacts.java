package io.flexkv.events;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;

import io.flexkv.protocol.Protocol;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * A block's facts as they lie beside its bytes in a tier that survives a restart.
 *
 * <pre>
 *  0            2              4
 *  +------------+--------------+------+--------+--------------+-------+
 *  | hash bytes | parent bytes | hash | parent | tokens u32[] | extra |
 *  | u16        | u16          | ...  | ...    |              | keys  |
 *  +------------+--------------+------+--------+--------------+-------+
 * </pre>
 *
 * <p>Parent bytes are hash bytes, or 0 at the root of a chain. Extra keys reach to the end.
 */
record SurvivorFacts(int blockTokens, int hashBytes, int parentBytes, MemorySegment data) {
  private static final int HASH = 4;
  private static final byte[] NONE = new byte[0];

  /** The facts with this id; empty if there are none. */
  static byte[] of(FactTable facts, int id) {
    if (id == FactTable.NONE) {
      return NONE;
    }
    int hashBytes = facts.hashBytes();
    int parentBytes = facts.hasParent(id) ? hashBytes : 0;
    byte[] extra = facts.extra(id);
    int tokens = HASH + hashBytes + parentBytes;
    int end = tokens + 4 * facts.blockTokens();
    byte[] data = new byte[end + (extra == null ? 0 : extra.length)];
    MemorySegment to = MemorySegment.ofArray(data);
    to.set(FactDescriptor.U16, 0, (short) hashBytes);
    to.set(FactDescriptor.U16, 2, (short) parentBytes);
    MemorySegment.copy(facts.hash(id), 0, to, HASH, hashBytes);
    MemorySegment.copy(facts.parent(id), 0, to, (long) HASH + hashBytes, parentBytes);
    MemorySegment.copy(facts.tokens(id), 0, to, tokens, 4L * facts.blockTokens());
    if (extra != null) {
      System.arraycopy(extra, 0, data, end, extra.length);
    }
    return data;
  }

  /** Reads what another life wrote; null if it cannot be that. */
  static @Nullable SurvivorFacts read(int blockTokens, byte[] data) {
    if (data.length < HASH) {
      return null;
    }
    MemorySegment from = MemorySegment.ofArray(data);
    int hashBytes = Short.toUnsignedInt(from.get(FactDescriptor.U16, 0));
    int parentBytes = Short.toUnsignedInt(from.get(FactDescriptor.U16, 2));
    boolean fits =
        hashBytes >= Protocol.MIN_HASH_BYTES
            && hashBytes <= Protocol.MAX_HASH_BYTES
            && (parentBytes == 0 || parentBytes == hashBytes)
            && data.length >= HASH + hashBytes + parentBytes + 4L * blockTokens;
    return fits ? new SurvivorFacts(blockTokens, hashBytes, parentBytes, from) : null;
  }

  boolean isOf(long eventHash) {
    return data.get(FactDescriptor.HASH_WORD, HASH + hashBytes - 8L) == eventHash;
  }

  void learn(FactTable facts, int group) {
    if (!facts.takes(hashBytes, blockTokens)) {
      return;
    }
    long tokens = (long) HASH + hashBytes + parentBytes;
    byte[] extra =
        data.asSlice(tokens + 4L * blockTokens, data.byteSize() - tokens - 4L * blockTokens)
            .toArray(JAVA_BYTE);
    long parentAt = parentBytes == 0 ? -1 : (long) HASH + hashBytes;
    facts.learn(group, data, HASH, parentAt, tokens, extra);
  }
}
