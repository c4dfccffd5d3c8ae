package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * One attempt to bring blocks in. It owns their slots until they are complete: only its own parts
 * count for them, and a slot whose block is dropped stays with it until the last copy of it ends.
 */
final class SaveAttempt extends Job {
  /** Place in {@link SaveAttempts}, which pending entries refer to. */
  final int reference;

  /** Blocks of the plan that were there already. */
  final int skipped;

  /** Blocks of the plan that found no slot. */
  final int unplaced;

  private final int[] gpuBlocks;
  private final long[] slots;
  private final long[] generations;

  /** The pending entry of each block; NONE once it is complete or dropped. */
  private final int[] entries;

  /** Parts that are in, of each block. */
  private final short[] in;

  /** Copies that run, of each block. */
  private final short[] copies;

  /** Which blocks each running part copies, ascending. */
  private final int[] @Nullable [] sent;

  private final boolean[] gone;
  private int dropped;
  private int complete;

  /** The deepest servable block before the first one to save, pinned; or NONE. */
  int held = NONE;

  SaveAttempt(
      long id,
      int instanceId,
      Namespace namespace,
      long plannedAt,
      int reference,
      int skipped,
      int unplaced,
      int[] gpuBlocks,
      long[] slots,
      long[] generations,
      int[] entries) {
    super(id, instanceId, namespace, namespace.parts(), plannedAt);
    this.reference = reference;
    this.skipped = skipped;
    this.unplaced = unplaced;
    this.gpuBlocks = gpuBlocks;
    this.slots = slots;
    this.generations = generations;
    this.entries = entries;
    this.in = new short[slots.length];
    this.copies = new short[slots.length];
    this.gone = new boolean[slots.length];
    this.sent = new int[parts()][];
  }

  int blocks() {
    return slots.length;
  }

  /** Blocks that are not dropped. */
  int alive() {
    return slots.length - dropped;
  }

  int dropped() {
    return dropped;
  }

  int complete() {
    return complete;
  }

  int entry(int block) {
    return entries[block];
  }

  boolean isDropped(int block) {
    return gone[block];
  }

  long slot(int block) {
    return slots[block];
  }

  /** Whether a copy of this block runs. */
  boolean copying(int block) {
    return copies[block] > 0;
  }

  /** A block goes. Returns whether its slot may be freed at once; else a copy still writes it. */
  boolean drop(int block) {
    gone[block] = true;
    entries[block] = NONE;
    dropped++;
    return copies[block] == 0;
  }

  /** All parts of a block are in. */
  void complete(int block) {
    entries[block] = NONE;
    complete++;
  }

  /** A part is in; returns whether it was the last. */
  boolean bringIn(int block) {
    in[block]++;
    return in[block] == parts();
  }

  /** Starts a part with the blocks that are alive, and emits it. There is at least one. */
  void send(int part, CacheEffects effects) {
    start(part);
    int[] chosen = new int[alive()];
    int n = 0;
    for (int block = 0; block < slots.length; block++) {
      if (!gone[block]) {
        copies[block]++;
        chosen[n++] = block;
      }
    }
    sent[part] = chosen;
    if (n == slots.length) {
      effects.startSave(id, part, gpuBlocks, slots, generations);
      return;
    }
    int[] someBlocks = Arrays.stream(chosen).map(block -> gpuBlocks[block]).toArray();
    long[] someSlots = Arrays.stream(chosen).mapToLong(block -> slots[block]).toArray();
    long[] someGenerations = Arrays.stream(chosen).mapToLong(block -> generations[block]).toArray();
    effects.startSave(id, part, someBlocks, someSlots, someGenerations);
  }

  /** A running part has ended: its copies are over. Returns the blocks it copied, ascending. */
  int[] drained(int part) {
    int[] chosen = sent[part];
    if (chosen == null) {
      throw new IllegalStateException("job " + id + " part " + part + " was not sent");
    }
    sent[part] = null;
    for (int block : chosen) {
      copies[block]--;
    }
    end(part);
    return chosen;
  }
}
