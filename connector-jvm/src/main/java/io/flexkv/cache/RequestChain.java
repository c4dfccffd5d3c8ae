package io.flexkv.cache;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** The block hashes of one request, in order: the last 16 bytes of each. */
final class RequestChain {
  private static final int MIN_CAPACITY = 32;
  private static final int[] NOTHING_FOUND = {};

  private long[] words = new long[2 * MIN_CAPACITY];
  private int blocks;
  private @Nullable Lease[] leases = new @Nullable Lease[1];

  /**
   * The namespace's generation when the chain began or was last looked up. A plan under another one
   * is refused: what the request was promised, or has computed, may be from before the reset.
   */
  int generation;

  /** What the counters know of it already: they count requests, however often one asks. */
  boolean lookedUp;

  boolean ssdHit;
  private int[] found = NOTHING_FOUND;

  /** What its planned saves tell of the engine's speed. */
  final ComputeSpeed.Prompt prompt = new ComputeSpeed.Prompt();

  RequestChain(int generation) {
    this.generation = generation;
  }

  int blocks() {
    return blocks;
  }

  long hashHi(int block) {
    return words[2 * block];
  }

  long hashLo(int block) {
    return words[2 * block + 1];
  }

  /** Whether blocks that are known and given again have the same hashes. */
  boolean agrees(int firstIndex, MemorySegment hashes, long offset, int hashBytes, int count) {
    int overlap = Math.min(count, blocks - firstIndex);
    long end = offset + hashBytes;
    for (int i = 0; i < overlap; i++, end += hashBytes) {
      if (hashes.get(BlockKey.WORD, end - 8) != hashLo(firstIndex + i)
          || hashes.get(BlockKey.WORD, end - 16) != hashHi(firstIndex + i)) {
        return false;
      }
    }
    return true;
  }

  /** Appends those hashes that are beyond the end; the first index is not. */
  void append(int firstIndex, MemorySegment hashes, long offset, int hashBytes, int count) {
    int wanted = firstIndex + count;
    if (wanted > blocks && 2 * wanted > words.length) {
      // Doubled: a long chain comes in many records, each of a few keys.
      words = Arrays.copyOf(words, Math.max(2 * wanted, 2 * words.length));
    }
    for (int block = blocks; block < wanted; block++) {
      long end = offset + (long) (block - firstIndex + 1) * hashBytes;
      words[2 * block] = hashes.get(BlockKey.WORD, end - 16);
      words[2 * block + 1] = hashes.get(BlockKey.WORD, end - 8);
    }
    blocks = Math.max(blocks, wanted);
  }

  /** Whether a lookup has found something. */
  boolean isHit() {
    return found.length > 0;
  }

  /** A lookup found so many blocks in a group: how many more than any earlier one. */
  int foundMore(int group, int count) {
    if (group >= found.length) {
      found = Arrays.copyOf(found, group + 1);
    }
    int more = Math.max(0, count - found[group]);
    found[group] += more;
    return more;
  }

  @Nullable Lease lease(int group) {
    return group < leases.length ? leases[group] : null;
  }

  void setLease(int group, @Nullable Lease lease) {
    if (group >= leases.length) {
      leases = Arrays.copyOf(leases, group + 1);
    }
    leases[group] = lease;
  }

  int leaseSlots() {
    return leases.length;
  }
}
