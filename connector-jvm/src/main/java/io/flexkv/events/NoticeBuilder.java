package io.flexkv.events;

import io.flexkv.protocol.KvNoticeRecord;
import io.flexkv.protocol.Protocol;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * One notice in the making: blocks of one kind, tier and group. Stored blocks of a notice are a
 * chain, each the parent of the next. Owned by one thread.
 */
final class NoticeBuilder {
  /** A notice is full at about this size; one with a single block may be larger. */
  static final int FULL_BYTES = 8 * 1024;

  /** The largest fact that can travel. */
  static final int MAX_BLOCK_BYTES = Protocol.MAX_RECORD_BYTES / 2;

  private static final int EVICTED_HASH_BYTES = Protocol.MIN_HASH_BYTES;

  private final ByteBuffer hashes = buffer();
  private final ByteBuffer parent = buffer();
  private final ByteBuffer tokens = buffer();
  private final ByteBuffer extras = buffer();
  private int kind;
  private int tier;
  private int group;
  private int hashBytes;
  private int blocks;
  private boolean anyExtra;
  private long lastHash;

  private static ByteBuffer buffer() {
    return ByteBuffer.allocate(MAX_BLOCK_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  }

  void begin(int theKind, int theTier, int theGroup, int theHashBytes) {
    kind = theKind;
    tier = theTier;
    group = theGroup;
    hashBytes = theHashBytes;
    blocks = 0;
    anyExtra = false;
    hashes.clear();
    parent.clear();
    tokens.clear();
    extras.clear();
  }

  int blocks() {
    return blocks;
  }

  /** Adds a stored block; false (and nothing added) if it does not continue the chain or fit. */
  boolean add(FactTable facts, int id) {
    MemorySegment hash = facts.hash(id);
    MemorySegment ids = facts.tokens(id);
    byte[] extra = facts.extra(id);
    int extraBytes = extra == null ? 0 : extra.length;
    if (blocks == 0) {
      if (facts.hasParent(id)) {
        put(parent, facts.parent(id));
      }
    } else if (!facts.hasParent(id)
        || facts.parentEventHash(id) != lastHash
        || size() + hash.byteSize() + ids.byteSize() + extraBytes > FULL_BYTES) {
      return false;
    }
    put(hashes, hash);
    put(tokens, ids);
    extras.putInt(extraBytes);
    if (extra != null) {
      extras.put(extra);
      anyExtra = true;
    }
    lastHash = facts.eventHash(id);
    blocks++;
    return true;
  }

  /** Adds an evicted block, by its event hash; false if it does not fit. */
  boolean addEvicted(long eventHash) {
    if (blocks > 0 && size() + EVICTED_HASH_BYTES > FULL_BYTES) {
      return false;
    }
    hashes.order(ByteOrder.BIG_ENDIAN).putLong(0).putLong(eventHash);
    blocks++;
    return true;
  }

  /** Writes the notice to the start of {@code to}; returns its length in bytes. */
  int encode(MemorySegment to) {
    boolean evicted = kind == Protocol.NOTICE_EVICTED;
    return KvNoticeRecord.encode(
        to,
        kind,
        tier,
        group,
        evicted ? EVICTED_HASH_BYTES : hashBytes,
        hashes.flip(),
        parent.flip(),
        tokens.flip(),
        anyExtra ? extras.flip() : extras.clear().limit(0));
  }

  private int size() {
    return hashes.position() + tokens.position() + extras.position();
  }

  private static void put(ByteBuffer to, MemorySegment from) {
    to.put(from.asByteBuffer());
  }
}
