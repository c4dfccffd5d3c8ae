package io.flexkv.session;

import io.flexkv.transfer.Completion;
import java.util.Locale;
import java.util.function.LongSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The everyday signs of life in the sidecar's log: every so often how much was evicted, and, where
 * {@code transfer_trace} asks for it, a line a transfer with a summary every ten seconds. Cache
 * thread; {@link #use} before it begins.
 */
final class LifeSigns {
  private static final Logger LOG = LoggerFactory.getLogger(LifeSigns.class);
  private static final long SUMMARY_NANOS = 10_000_000_000L;

  private boolean trace;
  private long evictionNanos;
  private long lastEvictionNanos;
  private long evictedBefore;
  private long lastSummaryNanos;
  private final Sum loads = new Sum();
  private final Sum saves = new Sum();

  private static final class Sum {
    long transfers;
    long blocks;
    long bytes;
    long nanos;

    String text() {
      double gigabytes = bytes / 1e9;
      return String.format(
          Locale.ROOT,
          "%d transfers, %d blocks, %.3f GB, %.2f ms each",
          transfers,
          blocks,
          gigabytes,
          transfers == 0 ? 0 : nanos / 1e6 / transfers);
    }

    void clear() {
      transfers = 0;
      blocks = 0;
      bytes = 0;
      nanos = 0;
    }
  }

  /**
   * What to tell.
   *
   * @param traceTransfers whether each transfer is worth a line
   * @param evictionNanos time between two lines on evictions, 0 = none
   */
  void use(boolean traceTransfers, long evictionNanos, long nowNanos) {
    this.trace = traceTransfers;
    this.evictionNanos = evictionNanos;
    lastEvictionNanos = nowNanos;
    lastSummaryNanos = nowNanos;
  }

  /** A transfer ended. */
  void completed(Completion done) {
    if (!trace) {
      return;
    }
    Sum sum =
        switch (done.direction()) {
          case LOAD -> loads;
          case SAVE -> saves;
        };
    int blocks = done.blocksOk().cardinality();
    sum.transfers++;
    sum.blocks += blocks;
    sum.bytes += done.bytes();
    sum.nanos += done.nanos();
    LOG.info(
        "[XFER] {} job {} part {}: {}, {} blocks, {} bytes in {} ms",
        done.direction(),
        done.jobId(),
        done.part(),
        done.status(),
        blocks,
        done.bytes(),
        String.format(Locale.ROOT, "%.3f", done.nanos() / 1e6));
  }

  /**
   * About once a second.
   *
   * @param evictedBlocks how many were evicted since the start; asked only when it is time
   */
  void tick(long nowNanos, LongSupplier evictedBlocks) {
    if (evictionNanos > 0 && nowNanos - lastEvictionNanos >= evictionNanos) {
      long evicted = evictedBlocks.getAsLong();
      if (evicted != evictedBefore) {
        LOG.info(
            "evicted {} blocks in {} s",
            evicted - evictedBefore,
            (nowNanos - lastEvictionNanos) / 1_000_000_000);
      }
      evictedBefore = evicted;
      lastEvictionNanos = nowNanos;
    }
    if (trace && nowNanos - lastSummaryNanos >= SUMMARY_NANOS) {
      if (loads.transfers + saves.transfers > 0) {
        LOG.info("[XFER-SUMMARY] loads: {}; saves: {}", loads.text(), saves.text());
      }
      loads.clear();
      saves.clear();
      lastSummaryNanos = nowNanos;
    }
  }
}
