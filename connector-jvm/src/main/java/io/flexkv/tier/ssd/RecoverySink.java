package io.flexkv.tier.ssd;

import java.util.BitSet;
import java.util.List;

/** Who takes the blocks that survived a restart. Called by one thread of the store. */
public interface RecoverySink {
  /** Most blocks in one {@link #offer}. */
  int MAX_BATCH = 1024;

  /** A block on disk. Its bytes are verified when they are read, not before. */
  record Survivor(long slot, SlotHeader header) {}

  /**
   * Takes a batch. A parent comes before its children, in this batch or an earlier one; a parent
   * that did not survive does not come at all.
   *
   * <p>May block until there is room: nothing else of the store waits for it.
   *
   * @param batch at most {@link #MAX_BATCH}
   * @return indices of the blocks that are taken; the slots of the others are freed
   * @throws InterruptedException ends the recovery: the blocks not offered yet stay on disk, out of
   *     reach, until the next start
   */
  BitSet offer(List<Survivor> batch) throws InterruptedException;

  /** The last call, also where the recovery failed. */
  void finished(Report report);

  /**
   * What a recovery did.
   *
   * @param offered blocks that were offered
   * @param taken blocks that the sink took
   * @param dropped blocks that were left behind: older generation, unreadable header, cut
   * @param headerBytes read
   * @param nanos from the start to the end
   */
  record Report(long offered, long taken, long dropped, long headerBytes, long nanos) {}
}
