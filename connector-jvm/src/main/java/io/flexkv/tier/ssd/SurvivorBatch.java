package io.flexkv.tier.ssd;

import java.util.Objects;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Blocks that survived a restart, on their way to the cache thread, and its answers on their way
 * back. The fields of a header lie in columns, for a start makes as many of them as a disk has
 * blocks; so a batch is used again.
 *
 * <p>One thread at a time: whoever hands it over must order that.
 */
public final class SurvivorBatch {
  /** Most blocks of a batch. */
  public static final int CAPACITY = 512;

  /** What becomes of a block. */
  public enum Answer {
    TAKEN,
    /** Nobody wants it: its slot is freed. */
    REFUSED,
    /** Its parent is not there: it comes again if the parent does, else its slot is freed. */
    NO_PARENT
  }

  private final Consumer<SurvivorBatch> back;
  private final @Nullable Answer[] answers = new @Nullable Answer[CAPACITY];
  private final long[] slots = new long[CAPACITY];
  private final long[] digestHi = new long[CAPACITY];
  private final long[] digestLo = new long[CAPACITY];
  private final long[] keyHi = new long[CAPACITY];
  private final long[] keyLo = new long[CAPACITY];
  private final long[] parentHi = new long[CAPACITY];
  private final long[] parentLo = new long[CAPACITY];
  private final long[] layoutDigests = new long[CAPACITY];
  private final long[] payloadBytes = new long[CAPACITY];
  private final long[] bootEpochs = new long[CAPACITY];
  private final int[] generations = new int[CAPACITY];
  private final int[] groups = new int[CAPACITY];
  private final int[] blockTokens = new int[CAPACITY];
  private final boolean[] parents = new boolean[CAPACITY];
  private final byte[][] eventData = new byte[CAPACITY][];
  private int size;

  /**
   * An empty batch.
   *
   * @param back told by {@link #answered}, on the thread that says so
   */
  SurvivorBatch(Consumer<SurvivorBatch> back) {
    this.back = back;
  }

  // ---- the store

  void clear() {
    size = 0;
  }

  boolean isFull() {
    return size == CAPACITY;
  }

  void add(long slot, HeaderRecord record) {
    int i = size++;
    slots[i] = slot;
    digestHi[i] = record.digestHi();
    digestLo[i] = record.digestLo();
    generations[i] = record.generation();
    groups[i] = record.group();
    keyHi[i] = record.keyHi();
    keyLo[i] = record.keyLo();
    layoutDigests[i] = record.layoutDigest();
    payloadBytes[i] = record.payloadBytes();
    parents[i] = record.hasParent();
    parentHi[i] = record.parentHi();
    parentLo[i] = record.parentLo();
    blockTokens[i] = record.blockTokens();
    bootEpochs[i] = record.bootEpoch();
    eventData[i] = record.eventData();
  }

  void add(long slot, SlotHeader header) {
    SlotIdentity identity = header.identity();
    int i = size++;
    slots[i] = slot;
    digestHi[i] = identity.digestHi();
    digestLo[i] = identity.digestLo();
    generations[i] = identity.generation();
    groups[i] = identity.group();
    keyHi[i] = identity.keyHi();
    keyLo[i] = identity.keyLo();
    layoutDigests[i] = identity.layoutDigest();
    payloadBytes[i] = identity.payloadBytes();
    parents[i] = header.hasParent();
    parentHi[i] = header.parentHi();
    parentLo[i] = header.parentLo();
    blockTokens[i] = header.blockTokens();
    bootEpochs[i] = header.bootEpoch();
    eventData[i] = header.eventData();
  }

  Answer answer(int i) {
    return Objects.requireNonNull(answers[i], "no answer");
  }

  /** {@link SlotIdentity#digest} of a block. */
  long identityDigest(int i) {
    return digest(i, keyHi[i], keyLo[i]);
  }

  /** Of its parent, for all else is equal within a chain; 0 if it has none. */
  long parentDigest(int i) {
    return parents[i] ? digest(i, parentHi[i], parentLo[i]) : 0;
  }

  private long digest(int i, long hi, long lo) {
    return SlotIdentity.digest(
        digestHi[i],
        digestLo[i],
        generations[i],
        groups[i],
        hi,
        lo,
        layoutDigests[i],
        payloadBytes[i]);
  }

  // ---- whoever takes it

  /** Says what becomes of a block. */
  public void answer(int i, Answer answer) {
    answers[i] = answer;
  }

  /** All have their answers: the store has the batch again. */
  public void answered() {
    back.accept(this);
  }

  public int size() {
    return size;
  }

  public long slot(int i) {
    return slots[i];
  }

  public long digestHi(int i) {
    return digestHi[i];
  }

  public long digestLo(int i) {
    return digestLo[i];
  }

  public int generation(int i) {
    return generations[i];
  }

  public int group(int i) {
    return groups[i];
  }

  public long keyHi(int i) {
    return keyHi[i];
  }

  public long keyLo(int i) {
    return keyLo[i];
  }

  public boolean hasParent(int i) {
    return parents[i];
  }

  public long parentHi(int i) {
    return parentHi[i];
  }

  public long parentLo(int i) {
    return parentLo[i];
  }

  public long payloadBytes(int i) {
    return payloadBytes[i];
  }

  public int blockTokens(int i) {
    return blockTokens[i];
  }

  /** Not copied: leave it as it is. */
  public byte[] eventData(int i) {
    return eventData[i];
  }

  /** All of its header. */
  public SlotHeader header(int i) {
    SlotIdentity identity =
        new SlotIdentity(
            digestHi[i],
            digestLo[i],
            generations[i],
            groups[i],
            keyHi[i],
            keyLo[i],
            layoutDigests[i],
            payloadBytes[i]);
    return new SlotHeader(
        identity,
        parents[i],
        parentHi[i],
        parentLo[i],
        blockTokens[i],
        bootEpochs[i],
        eventData[i]);
  }
}
