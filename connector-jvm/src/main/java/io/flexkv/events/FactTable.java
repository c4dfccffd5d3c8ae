package io.flexkv.events;

import static io.flexkv.events.FactDescriptor.EVENT_HASH;
import static io.flexkv.events.FactDescriptor.GROUP;
import static io.flexkv.events.FactDescriptor.HASH;
import static io.flexkv.events.FactDescriptor.HASH_WORD;
import static io.flexkv.events.FactDescriptor.I32;
import static io.flexkv.events.FactDescriptor.NEXT;
import static io.flexkv.events.FactDescriptor.PARENT_BYTES;
import static io.flexkv.events.FactDescriptor.PREVIOUS;
import static io.flexkv.events.FactDescriptor.SEQUENCE;
import static io.flexkv.events.FactDescriptor.TIERS;
import static io.flexkv.events.FactDescriptor.U16;
import static io.flexkv.events.FactDescriptor.U64;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The facts of a namespace's blocks, by event hash. A fact waits from the plan that will bring its
 * block in until a tier has the block; it goes with the last tier that had it. Facts that wait are
 * bounded: the oldest give way, and their blocks are never announced.
 *
 * <p>Resident facts are linked in the order in which their blocks came in, so parents lie before
 * children. A {@link Cursor} walks that order while blocks come and go.
 */
final class FactTable {
  static final int NONE = -1;
  private static final int CHUNK_BYTES = 1 << 20;
  private static final int MIN_WAITING = 1024;
  private static final int LOOKED_AT = 64;

  /**
   * Extra keys of all facts together, waiting or not: they lie on the heap. A block whose extra
   * keys have no room is never announced.
   */
  private final long maxExtraBytes;

  /** A place in the order of resident facts; follows the next one where its own goes. */
  final class Cursor {
    private int at = NONE;

    /** The fact it is at, {@link #NONE} at the end. */
    int at() {
      return at;
    }

    void moveTo(int id) {
      at = id;
    }

    void close() {
      cursors.remove(this);
    }
  }

  private final class Order {
    private int first = NONE;
    private int last = NONE;
    private int size;

    void add(int id) {
      setInt(id, PREVIOUS, last);
      setInt(id, NEXT, NONE);
      if (last == NONE) {
        first = id;
      } else {
        setInt(last, NEXT, id);
      }
      last = id;
      size++;
    }

    void remove(int id) {
      int previous = getInt(id, PREVIOUS);
      int next = getInt(id, NEXT);
      if (previous == NONE) {
        first = next;
      } else {
        setInt(previous, NEXT, next);
      }
      if (next == NONE) {
        last = previous;
      } else {
        setInt(next, PREVIOUS, previous);
      }
      size--;
    }
  }

  private final int blockTokens;
  private final long maxWaitingBytes;
  private int hashBytes;
  private int stride;
  private int factsAChunk;
  private int maxWaiting;
  private final Arena arena = Arena.ofAuto();
  private final List<MemorySegment> chunks = new ArrayList<>();
  private final Map<Integer, byte[]> extras = new HashMap<>();
  private final List<Cursor> cursors = new ArrayList<>();
  private final FactIndex index =
      new FactIndex(
          new FactIndex.Keys() {
            @Override
            public long eventHash(int id) {
              return FactTable.this.eventHash(id);
            }

            @Override
            public int group(int id) {
              return FactTable.this.group(id);
            }
          });
  private final Order waiting = new Order();
  private final Order resident = new Order();
  private final int[] inTier = new int[FactDescriptor.MAX_TIERS];
  private int free = NONE;
  private int used;
  private long lastSequence;
  private long dropped;
  private long extraBytes;

  /**
   * @param blockTokens tokens of a block
   * @param maxWaitingBytes memory for facts without a tier
   * @param maxExtraBytes memory for the extra keys of all
   */
  FactTable(int blockTokens, long maxWaitingBytes, long maxExtraBytes) {
    this.blockTokens = blockTokens;
    this.maxWaitingBytes = maxWaitingBytes;
    this.maxExtraBytes = maxExtraBytes;
  }

  /** Whether facts of these sizes fit; the first to come fix the width of the hashes. */
  boolean takes(int theHashBytes, int theBlockTokens) {
    if (hashBytes == 0 && theBlockTokens == blockTokens) {
      hashBytes = theHashBytes;
      stride = FactDescriptor.stride(hashBytes, blockTokens);
      factsAChunk = Math.max(1, CHUNK_BYTES / stride);
      maxWaiting = (int) Math.max(MIN_WAITING, maxWaitingBytes / stride);
    }
    return theHashBytes == hashBytes
        && theBlockTokens == blockTokens
        && stride <= NoticeBuilder.MAX_BLOCK_BYTES;
  }

  /** 0 while there has been no fact. */
  int hashBytes() {
    return hashBytes;
  }

  int blockTokens() {
    return blockTokens;
  }

  int residentFacts() {
    return resident.size;
  }

  int waitingFacts() {
    return waiting.size;
  }

  /** Facts that gave way while they waited. */
  long droppedFacts() {
    return dropped;
  }

  int find(int group, long eventHash) {
    return index.find(group, eventHash);
  }

  /**
   * Keeps what an event must say of a block. What is known already stays as it is.
   *
   * @param from holds the hash, the parent's hash and the tokens at these offsets
   * @param parentAt −1 at the root of a chain
   * @param extra extra keys as the engine encoded them; empty = none
   */
  void learn(
      int group, MemorySegment from, long hashAt, long parentAt, long tokensAt, byte[] extra) {
    long eventHash = from.get(HASH_WORD, hashAt + hashBytes - 8);
    int known = index.find(group, eventHash);
    if (known != NONE) {
      if (tiers(known) == 0) {
        waiting.remove(known);
        waiting.add(known);
      }
      return;
    }
    if (waiting.size >= maxWaiting) {
      dropped++;
      forget(waiting.first, waiting);
    }
    if (extra.length > 0 && !makeRoom(extra.length)) {
      dropped++;
      return;
    }
    int id = take();
    MemorySegment chunk = chunk(id);
    long at = offset(id);
    chunk.set(U64, at + EVENT_HASH, eventHash);
    chunk.set(U64, at + SEQUENCE, 0);
    chunk.set(U16, at + TIERS, (short) 0);
    chunk.set(U16, at + GROUP, (short) group);
    chunk.set(U16, at + PARENT_BYTES, (short) (parentAt < 0 ? 0 : hashBytes));
    MemorySegment.copy(from, hashAt, chunk, at + HASH, hashBytes);
    if (parentAt >= 0) {
      MemorySegment.copy(from, parentAt, chunk, at + HASH + hashBytes, hashBytes);
    }
    MemorySegment.copy(from, tokensAt, chunk, at + HASH + 2L * hashBytes, 4L * blockTokens);
    if (extra.length > 0) {
      extras.put(id, extra);
      extraBytes += extra.length;
    }
    index.add(id);
    waiting.add(id);
  }

  /**
   * Room for extra keys, at the cost of those of the oldest facts that wait; false if there is
   * none.
   */
  private boolean makeRoom(int bytes) {
    int id = waiting.first;
    for (int i = 0; i < LOOKED_AT && extraBytes + bytes > maxExtraBytes && id != NONE; i++) {
      int next = getInt(id, NEXT);
      if (extras.containsKey(id)) {
        dropped++;
        forget(id, waiting);
      }
      id = next;
    }
    return extraBytes + bytes <= maxExtraBytes;
  }

  /** A tier has the block now; returns whether its facts are known. */
  boolean stored(int group, long eventHash, int tier) {
    int id = index.find(group, eventHash);
    if (id == NONE) {
      return false;
    }
    int tiers = tiers(id);
    if (tiers == 0) {
      waiting.remove(id);
      resident.add(id);
      chunk(id).set(U64, offset(id) + SEQUENCE, ++lastSequence);
    }
    if ((tiers & 1 << tier) == 0) {
      setTiers(id, tiers | 1 << tier);
      inTier[tier]++;
    }
    return true;
  }

  /** A tier has lost the block; returns whether its facts said that it had it. */
  boolean evicted(int group, long eventHash, int tier) {
    int id = index.find(group, eventHash);
    if (id == NONE || (tiers(id) & 1 << tier) == 0) {
      return false;
    }
    int left = tiers(id) & ~(1 << tier);
    setTiers(id, left);
    inTier[tier]--;
    if (left == 0) {
      forget(id, resident);
    }
    return true;
  }

  /** All tiers have lost all blocks. */
  void clear() {
    while (resident.first != NONE) {
      forget(resident.first, resident);
    }
    while (waiting.first != NONE) {
      forget(waiting.first, waiting);
    }
    Arrays.fill(inTier, 0);
  }

  boolean isIn(int id, int tier) {
    return (tiers(id) & 1 << tier) != 0;
  }

  int blocksIn(int tier) {
    return inTier[tier];
  }

  /** The sequence of the block that came in last. */
  long lastSequence() {
    return lastSequence;
  }

  Cursor newCursor() {
    Cursor cursor = new Cursor();
    cursors.add(cursor);
    return cursor;
  }

  /** The resident fact that came in first, {@link #NONE} if there is none. */
  int first() {
    return resident.first;
  }

  /** The resident fact that came in after this one. */
  int next(int id) {
    return getInt(id, NEXT);
  }

  // ------------------------------------------------------------------ one fact

  long sequence(int id) {
    return chunk(id).get(U64, offset(id) + SEQUENCE);
  }

  long eventHash(int id) {
    return chunk(id).get(U64, offset(id) + EVENT_HASH);
  }

  int group(int id) {
    return Short.toUnsignedInt(chunk(id).get(U16, offset(id) + GROUP));
  }

  boolean hasParent(int id) {
    return chunk(id).get(U16, offset(id) + PARENT_BYTES) != 0;
  }

  /** The parent's event hash; of a fact that has one. */
  long parentEventHash(int id) {
    return chunk(id).get(HASH_WORD, offset(id) + HASH + 2L * hashBytes - 8);
  }

  MemorySegment hash(int id) {
    return chunk(id).asSlice(offset(id) + HASH, hashBytes);
  }

  MemorySegment parent(int id) {
    return chunk(id).asSlice(offset(id) + HASH + hashBytes, hashBytes);
  }

  MemorySegment tokens(int id) {
    return chunk(id).asSlice(offset(id) + HASH + 2L * hashBytes, 4L * blockTokens);
  }

  /** Extra keys, null if it has none. */
  byte @Nullable [] extra(int id) {
    return extras.get(id);
  }

  // ------------------------------------------------------------------ slab

  private int tiers(int id) {
    return Short.toUnsignedInt(chunk(id).get(U16, offset(id) + TIERS));
  }

  private void setTiers(int id, int tiers) {
    chunk(id).set(U16, offset(id) + TIERS, (short) tiers);
  }

  private void forget(int id, Order from) {
    for (int i = 0; i < cursors.size(); i++) {
      if (cursors.get(i).at == id) {
        cursors.get(i).at = getInt(id, NEXT);
      }
    }
    from.remove(id);
    index.remove(id);
    byte[] extra = extras.remove(id);
    extraBytes -= extra == null ? 0 : extra.length;
    setInt(id, NEXT, free);
    free = id;
  }

  private int take() {
    if (free != NONE) {
      int id = free;
      free = getInt(id, NEXT);
      return id;
    }
    if (used == chunks.size() * factsAChunk) {
      chunks.add(arena.allocate((long) factsAChunk * stride, 8));
    }
    return used++;
  }

  private MemorySegment chunk(int id) {
    return chunks.get(id / factsAChunk);
  }

  private long offset(int id) {
    return (long) (id % factsAChunk) * stride;
  }

  private int getInt(int id, int field) {
    return chunk(id).get(I32, offset(id) + field);
  }

  private void setInt(int id, int field, int value) {
    chunk(id).set(I32, offset(id) + field, value);
  }
}
