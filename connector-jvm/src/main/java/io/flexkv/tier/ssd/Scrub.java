package io.flexkv.tier.ssd;

import java.lang.System.Logger.Level;
import java.lang.foreign.Arena;

/**
 * Reads the blocks of a directory one after another, slowly and for ever, so that a block that has
 * gone bad is found before somebody waits for it. The directory's care thread.
 */
final class Scrub {
  private static final System.Logger LOG = System.getLogger(Scrub.class.getName());

  /** Slots without a block that are passed over in one step. */
  private static final int MAX_STEPS = 4096;

  private static final double NANOS = 1e9;

  private final SsdDirectory directory;
  private final SsdCounters counters;
  private final BlockVerifier verifier;
  private final long bytesPerSecond;
  private int extent;
  private int index;
  private long nextNanos;

  Scrub(SsdDirectory directory, SsdCounters counters, long bytesPerSecond, Arena arena) {
    this.directory = directory;
    this.counters = counters;
    this.bytesPerSecond = bytesPerSecond;
    this.verifier = new BlockVerifier(directory, arena);
  }

  /** Reads the next block if its time has come. */
  void step(long nanos) {
    if (bytesPerSecond == 0 || nanos - nextNanos < 0) {
      return;
    }
    for (int i = 0; i < MAX_STEPS; i++) {
      SlotSpan span = directory.space().spanAt(extent);
      if (span == null || index >= span.slots || span.firstExtent != extent) {
        extent = (extent + 1) % directory.space().extents();
        index = 0;
        continue;
      }
      BlockVerifier.Finding finding = verifier.verify(span, index++);
      if (finding != null) {
        nextNanos = nanos + (long) (finding.bytes() * NANOS / bytesPerSecond);
        take(span, index - 1, finding);
        return;
      }
    }
  }

  private void take(SlotSpan span, int at, BlockVerifier.Finding finding) {
    counters.scrubbedBlocks.increment();
    if (finding.errno() != 0) {
      counters.readErrors.increment();
      directory.readFailed(finding.errno());
    } else if (!finding.good() && span.isMarked(at, DirectoryScan.UNPROVEN)) {
      counters.corruptBlocks.increment();
      counters.staleBlocks.increment(); // it was being overwritten at an end; a read will miss
    } else if (!finding.good()) {
      counters.corruptBlocks.increment();
      counters.quarantinedBytes.add(span.stride);
      span.markBad(at);
      LOG.log(
          Level.ERROR,
          "SSD block is corrupt, its slot is not used any more: {0}, file {1}, offset {2}:"
              + " checksum {3}, wanted {4} (found by the scrub)",
          directory.path(),
          directory.files().fileOf(span.offset(at)) - 1,
          directory.files().within(span.offset(at)),
          "%08x".formatted(finding.found()),
          "%08x".formatted(finding.wanted()));
    } else {
      directory.space().proved(span, at);
    }
  }
}
