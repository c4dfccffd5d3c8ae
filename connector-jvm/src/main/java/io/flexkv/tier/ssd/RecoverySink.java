package io.flexkv.tier.ssd;

/** Who takes the blocks that survived a restart. Called by one thread of the store. */
public interface RecoverySink {
  /** A block on disk. Its bytes are verified when they are read, not before. */
  record Survivor(long slot, SlotHeader header) {}

  /**
   * Takes a batch, and answers for each block in it, in their order, from any thread and soon; then
   * says {@link SurvivorBatch#answered}. Batches are answered in the order in which they came; the
   * store has a few of them, so it waits for the first when all are here.
   *
   * <p>Nearly always a parent came before its children. A child that is here before is answered by
   * {@link SurvivorBatch.Answer#NO_PARENT} and comes again behind its parent, if that does. The
   * same block may come twice.
   *
   * @throws InterruptedException ends the recovery: the blocks not taken yet stay on disk, out of
   *     reach, until the next start
   */
  void offer(SurvivorBatch batch) throws InterruptedException;

  /** The last call, also where the recovery failed. */
  void finished(Report report);

  /**
   * What a recovery did.
   *
   * @param offered blocks that were taken or refused
   * @param taken blocks that the sink took
   * @param dropped blocks that were left behind: older generation, unreadable header, no parent
   * @param headerBytes read
   * @param nanos from the start to the end
   */
  record Report(long offered, long taken, long dropped, long headerBytes, long nanos) {}
}
