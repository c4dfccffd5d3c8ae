package io.flexkv.cache;

import java.util.Arrays;

/**
 * How fast the engines of a namespace compute prompts, seen from the saves of prompts that are
 * computed in chunks: the plan of a chunk comes when its computation begins, so between it and the
 * next one lies a chunk. Time that other requests took in between counts too, hence a speed as it
 * is under the present load. The median of the last few, for one prompt whose first chunk brings
 * blocks along that were there before looks many times too fast.
 */
final class ComputeSpeed {
  /** Smaller plans are those of decoding requests, or of a prompt's end. */
  private static final int MIN_BLOCKS = 32;

  private static final int SAMPLES = 9;
  private static final int ENOUGH = 3;
  private static final double NANOS = 1e9;

  private final double[] blocksPerSecond = new double[SAMPLES];
  private int count;

  /** A save of blocks [first, first + blocks) of a chain is planned. */
  void planned(RequestChain chain, int first, int blocks, long now) {
    long nanos = now - chain.savePlannedAt;
    if (chain.savePlannedTo == first && first > 0 && blocks >= MIN_BLOCKS && nanos > 0) {
      blocksPerSecond[count++ % SAMPLES] = blocks * NANOS / nanos;
    }
    chain.savePlannedTo = first + blocks;
    chain.savePlannedAt = now;
  }

  /** 0 if it is not known. */
  double blocksPerSecond() {
    if (count < ENOUGH) {
      return 0;
    }
    double[] sorted = Arrays.copyOf(blocksPerSecond, Math.min(count, SAMPLES));
    Arrays.sort(sorted);
    return sorted[sorted.length / 2];
  }
}
