package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.lang.System.Logger.Level;

/**
 * The access to one block of a job: a read is verified before it counts, a write is followed by its
 * header. Bound to a slot that its caller leaves alone until the job is drained.
 */
final class BlockAccess extends BlockOp {
  private static final System.Logger LOG = System.getLogger(BlockAccess.class.getName());

  /** A disk that has gone bad fills no log: the first ones, then one in so many. */
  private static final int LOGGED_AT_LEAST = 100;

  private static final int LOGGED_EACH = 100;

  private final OpenJob open;
  private final int block;
  private final SsdDirectory directory;
  private final SlotSpan span;
  private final int index;
  private final SsdCounters counters;
  private boolean begun;
  private int sum;

  private BlockAccess(
      OpenJob open,
      int block,
      SsdDirectory directory,
      SlotSpan span,
      long offset,
      SsdCounters counters) {
    super(
        urgency(open.job().priority()),
        open.job().isWrite(),
        directory.files().fileOf(offset),
        directory.files().within(offset),
        open.job().address(block),
        (int) SsdEngine.rounded(open.job().identity(block).payloadBytes()));
    this.open = open;
    this.block = block;
    this.directory = directory;
    this.span = span;
    this.index = span.indexOf(offset);
    this.counters = counters;
  }

  static BlockAccess of(
      OpenJob open, int block, SsdDirectory directory, SlotSpan span, SsdCounters counters) {
    long offset = SlotNumber.offset(open.job().slot(block));
    return new BlockAccess(open, block, directory, span, offset, counters);
  }

  private static Urgency urgency(SsdJob.Priority priority) {
    return switch (priority) {
      case READ_LIVE -> Urgency.READ_LIVE;
      case WRITE -> Urgency.WRITE;
      case READ_SPECULATIVE -> Urgency.READ_SPECULATIVE;
    };
  }

  private SlotIdentity identity() {
    return open.job().identity(block);
  }

  @Override
  boolean begin() {
    begun = open.begin(block);
    return begun;
  }

  @Override
  void meanwhile() {
    if (isWrite()) {
      sum =
          Checksums.ofBlock(
              identity().digest(), open.job().address(block), identity().payloadBytes());
    }
  }

  @Override
  void done(int errno) {
    directory.release(1);
    if (isWrite()) {
      written(errno);
    } else {
      read(errno);
    }
  }

  private void written(int errno) {
    if (errno == 0) {
      // It is over only when the log has its header: else a clean end would be noted in between.
      directory.log().append(open.job().header(block), span, index, sum, this::committed);
      boolean more = directory.payloadOver();
      directory.log().start(!more);
      return;
    }
    if (begun) {
      counters.writeErrors.increment();
      directory.log().headerMissing();
    }
    directory.payloadOver();
    open.failed(block, begun, false, text(errno));
    if (begun) {
      directory.writeFailed(errno); // afterwards, for it ends what else is under way
    }
  }

  private void committed(int errno) {
    if (errno != 0) {
      open.failed(block, true, false, "its header was not written: " + Errno.describe(errno));
      return;
    }
    counters.writtenBlocks.increment();
    counters.writtenBytes.add(identity().payloadBytes());
    open.succeeded(block);
  }

  private void read(int errno) {
    if (errno != 0) {
      if (begun) {
        counters.readErrors.increment();
      }
      open.failed(block, begun, begun, text(errno));
      if (begun) {
        directory.readFailed(errno);
      }
      return;
    }
    long digest = identity().digest();
    if (span.identityDigest(index) != digest) {
      open.failed(block, true, false, "slot %x holds another block".formatted(slot()));
      return;
    }
    int found = Checksums.ofBlock(digest, open.job().address(block), identity().payloadBytes());
    if (found == span.sum(index)) {
      directory.space().proved(span, index);
      counters.readBlocks.increment();
      counters.readBytes.add(identity().payloadBytes());
      open.succeeded(block);
    } else {
      mismatch(found);
    }
  }

  private long slot() {
    return open.job().slot(block);
  }

  private void mismatch(int found) {
    String what =
        "%s, file %d, slot %x: checksum %08x, wanted %08x"
            .formatted(directory.path(), file() - 1, slot(), found, span.sum(index));
    counters.corruptBlocks.increment();
    boolean stale = span.isMarked(index, DirectoryScan.UNPROVEN);
    if (stale) {
      counters.staleBlocks.increment();
      LOG.log(Level.DEBUG, "SSD block was being overwritten at the last end: {0}", what);
    } else {
      counters.quarantinedBytes.add(span.stride);
      span.markBad(index);
      long count = counters.corruptBlocks.sum();
      if (count <= LOGGED_AT_LEAST || count % LOGGED_EACH == 0) {
        LOG.log(Level.ERROR, "SSD block is corrupt, its slot is not used any more: {0}", what);
      }
    }
    open.failed(block, true, true, what);
  }

  private String text(int errno) {
    if (!begun) {
      String why = directory.cause();
      return why == null ? "given up" : "SSD directory %s: %s".formatted(directory.path(), why);
    }
    return "%s of SSD directory %s: %s"
        .formatted(isWrite() ? "write" : "read", directory.path(), Errno.describe(errno));
  }
}
