package io.flexkv.tier.ssd;

import java.util.concurrent.atomic.LongAdder;

/** What {@link SsdStats} reports, counted by any thread. */
final class SsdCounters {
  final LongAdder readBlocks = new LongAdder();
  final LongAdder readBytes = new LongAdder();
  final LongAdder writtenBlocks = new LongAdder();
  final LongAdder writtenBytes = new LongAdder();
  final LongAdder corruptBlocks = new LongAdder();
  final LongAdder staleBlocks = new LongAdder();
  final LongAdder quarantinedBytes = new LongAdder();
  final LongAdder scrubbedBlocks = new LongAdder();
  final LongAdder readErrors = new LongAdder();
  final LongAdder writeErrors = new LongAdder();
  final LongAdder deadlinesMissed = new LongAdder();

  SsdStats snapshot(long headerBytes) {
    return new SsdStats(
        readBlocks.sum(),
        readBytes.sum(),
        writtenBlocks.sum(),
        writtenBytes.sum(),
        headerBytes,
        corruptBlocks.sum(),
        staleBlocks.sum(),
        quarantinedBytes.sum(),
        readErrors.sum(),
        writeErrors.sum(),
        deadlinesMissed.sum(),
        scrubbedBlocks.sum());
  }
}
