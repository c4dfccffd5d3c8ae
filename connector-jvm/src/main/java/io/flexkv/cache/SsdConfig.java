package io.flexkv.cache;

import java.util.concurrent.TimeUnit;

/**
 * How the core uses the SSD tier.
 *
 * @param writePolicy when blocks are written
 * @param maxQueuedBytes blocks that wait to be written; beyond it they are not written
 * @param maxWriteBytes blocks being written at the same time: their host slots cannot be evicted
 * @param maxReadBytes blocks being read at the same time
 * @param transferBytes most bytes of one transfer
 * @param turnBlocks blocks of one chain that get room for their reads in one turn of the cache
 *     thread: others' lookups wait meanwhile
 * @param recomputeTokensPerSecond tokens that an engine computes in a second: what the SSD would
 *     bring later than that is not read; 0 = as seen from its saves
 * @param waitNanos how long lookups say "ask again" for a read that has brought nothing yet
 */
public record SsdConfig(
    WritePolicy writePolicy,
    long maxQueuedBytes,
    long maxWriteBytes,
    long maxReadBytes,
    long transferBytes,
    int turnBlocks,
    long recomputeTokensPerSecond,
    long waitNanos) {

  /** Checks that every limit is positive. */
  public SsdConfig {
    if (maxQueuedBytes <= 0
        || maxWriteBytes <= 0
        || maxReadBytes <= 0
        || transferBytes <= 0
        || turnBlocks <= 0
        || recomputeTokensPerSecond < 0
        || waitNanos <= 0) {
      throw new IllegalArgumentException(
          ("queued=%d write=%d read=%d transfer=%d bytes, turn=%d blocks, recompute=%d tokens/s,"
                  + " wait=%d ns: expected positive numbers")
              .formatted(
                  maxQueuedBytes,
                  maxWriteBytes,
                  maxReadBytes,
                  transferBytes,
                  turnBlocks,
                  recomputeTokensPerSecond,
                  waitNanos));
    }
  }

  /**
   * What suits a host tier of this size: all of it may wait to be written (what waits can be
   * evicted as any other block), half of it be read, and an eighth, at most 1 GiB, be written.
   */
  public static SsdConfig forHost(long hostBytes) {
    return new SsdConfig(
            WritePolicy.THROUGH, 1, 1, 1, 32L << 20, 64, 0, TimeUnit.MILLISECONDS.toNanos(500))
        .boundedBy(hostBytes);
  }

  /** This with the bounds that suit a host tier of this size, as those of {@link #forHost}. */
  public SsdConfig boundedBy(long hostBytes) {
    return new SsdConfig(
        writePolicy,
        Math.max(1, hostBytes),
        Math.max(1, Math.min(1L << 30, hostBytes / 8)),
        Math.max(1, hostBytes / 2),
        transferBytes,
        turnBlocks,
        recomputeTokensPerSecond,
        waitNanos);
  }

  /** This with another write policy. */
  public SsdConfig withWritePolicy(WritePolicy policy) {
    return with(policy, recomputeTokensPerSecond, waitNanos);
  }

  /** This with another patience of lookups, in nanoseconds. */
  public SsdConfig withWait(long nanos) {
    return with(writePolicy, recomputeTokensPerSecond, nanos);
  }

  /** This with another speed of engines. */
  public SsdConfig withRecompute(long tokensPerSecond) {
    return with(writePolicy, tokensPerSecond, waitNanos);
  }

  private SsdConfig with(WritePolicy policy, long tokensPerSecond, long wait) {
    return new SsdConfig(
        policy,
        maxQueuedBytes,
        maxWriteBytes,
        maxReadBytes,
        transferBytes,
        turnBlocks,
        tokensPerSecond,
        wait);
  }
}
