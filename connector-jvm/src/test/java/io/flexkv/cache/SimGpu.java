package io.flexkv.cache;

import java.util.Random;

/**
 * A simulated engine's KV memory: for each block a generation counter and, for each rank, a tag
 * that stands for its bytes. Memory of a dead engine lives on as long as copies touch it.
 */
final class SimGpu {
  private static long garbage = -1;

  final long[] generations;
  final long[][] tags;
  private final boolean[] taken;
  private int free;

  SimGpu(int ranks, int blocks) {
    generations = new long[blocks];
    tags = new long[ranks][blocks];
    taken = new boolean[blocks];
    taken[0] = true;
    free = blocks - 1;
  }

  int free() {
    return free;
  }

  /** Hands out a free block: its counter goes up first, then its bytes are anybody's. */
  int take(Random random) {
    int block = 1 + random.nextInt(taken.length - 1);
    while (taken[block]) {
      block = block % (taken.length - 1) + 1;
    }
    taken[block] = true;
    free--;
    generations[block]++;
    for (long[] ofRank : tags) {
      ofRank[block] = garbage--;
    }
    return block;
  }

  void release(int block) {
    if (!taken[block]) {
      throw new AssertionError("block " + block + " is released twice");
    }
    taken[block] = false;
    free++;
  }
}
