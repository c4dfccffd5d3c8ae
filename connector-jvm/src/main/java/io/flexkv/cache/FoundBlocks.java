package io.flexkv.cache;

import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Blocks that were found on an SSD after a restart, on their way to {@link SsdReports#adopt}, with
 * all of it that can be worked out before the cache thread has them: their keys. In columns that
 * are used again, for a start finds as many blocks as a disk has.
 *
 * <p>One thread at a time: whoever hands it over must order that.
 */
public final class FoundBlocks {
  /** What many of them have in common, and nearly always the one before as well. */
  record Kind(
      long digestHi, long digestLo, int generation, int group, long slotBytes, KeySalt salt) {
    boolean isOf(BlockIdentity block) {
      return digestHi == block.digestHi()
          && digestLo == block.digestLo()
          && generation == block.generation()
          && group == block.group()
          && slotBytes == block.slotBytes();
    }
  }

  private final @Nullable Kind[] kinds;
  private final boolean[] parents;
  private final long[] keyHi;
  private final long[] keyLo;
  private final long[] parentKeyHi;
  private final long[] parentKeyLo;
  private final long[] hashes;
  private final KeyProbe probe = new KeyProbe();
  private @Nullable Kind latest;
  private int size;

  /** None yet; room for so many. */
  public FoundBlocks(int capacity) {
    kinds = new @Nullable Kind[capacity];
    parents = new boolean[capacity];
    keyHi = new long[capacity];
    keyLo = new long[capacity];
    parentKeyHi = new long[capacity];
    parentKeyLo = new long[capacity];
    hashes = new long[capacity];
  }

  public void clear() {
    size = 0;
  }

  /**
   * Adds one; there must be room. Does not hand the object on, so that a caller who makes it for
   * this call alone makes none, once this is compiled.
   */
  public void add(BlockIdentity block) {
    Kind kind = latest;
    if (kind == null || !kind.isOf(block)) {
      long hi = block.digestHi();
      long lo = block.digestLo();
      int generation = block.generation();
      int group = block.group();
      KeySalt salt = KeySalt.of(hi, lo, generation, group);
      kind = new Kind(hi, lo, generation, group, block.slotBytes(), salt);
      latest = kind;
    }
    int i = size;
    kinds[i] = kind;
    probe.set(kind.salt, block.hashHi(), block.hashLo());
    keyHi[i] = probe.hi();
    keyLo[i] = probe.lo();
    hashes[i] = block.hashLo();
    parents[i] = block.hasParent();
    probe.set(kind.salt, block.parentHi(), block.parentLo());
    parentKeyHi[i] = probe.hi();
    parentKeyLo[i] = probe.lo();
    size++;
  }

  int size() {
    return size;
  }

  Kind kind(int i) {
    return Objects.requireNonNull(kinds[Objects.checkIndex(i, size)]);
  }

  boolean hasParent(int i) {
    return parents[i];
  }

  long keyHi(int i) {
    return keyHi[i];
  }

  long keyLo(int i) {
    return keyLo[i];
  }

  /** The parent's key, if it has one. */
  long parentKeyHi(int i) {
    return parentKeyHi[i];
  }

  long parentKeyLo(int i) {
    return parentKeyLo[i];
  }

  /** Last 8 bytes of the block's hash. */
  long hash(int i) {
    return hashes[i];
  }
}
