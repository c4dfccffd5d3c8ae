package io.flexkv.cache;

/**
 * What the cache core wants done: the only way out of it besides return values.
 *
 * <p>Called on the cache thread, in the middle of a call of {@link CacheCore}. An implementation
 * must not block, must not throw and must not call the core back from inside (queue what it has to
 * say). Arrays belong to the core: they stay as they are after the call and must not be changed.
 *
 * <p>{@link #jobDone} answers a go, once. It comes after the last copy of this part has been
 * reported to the core, so that no copy can touch memory any more; at once for a part that had
 * ended before its go came; and from {@link CacheCore#tick} for a go whose plan did not come.
 */
public interface CacheEffects {
  /**
   * Copy a rank's part of blocks from their slots to the engine, then report {@link
   * CacheCore#loadPartDone}.
   *
   * @param jobId the job
   * @param part the rank's part: which bytes of each slot are its own
   * @param gpuBlocks the engine's block ids, in chain order
   * @param slots the slot of each block
   * @param available how many leading slots may be read; more come while it runs, or it is cut
   */
  void startLoad(long jobId, int part, int[] gpuBlocks, long[] slots, AvailableBlocks available);

  /**
   * Copy a rank's part of blocks from the engine to their slots, then compare the engine's block
   * generations and report {@link CacheCore#savePartDone}.
   *
   * @param jobId the job
   * @param part the rank's part: which bytes of each slot are its own
   * @param gpuBlocks the engine's block ids, in chain order
   * @param slots the slot of each block
   * @param generations the block generations that the plan saw
   */
  void startSave(long jobId, int part, int[] gpuBlocks, long[] slots, long[] generations);

  /** A rank's part of a job has ended: the answer to its go. No copy of it runs or will run. */
  void jobDone(long jobId, int part, JobStatus status);

  /**
   * A save has ended in all its parts.
   *
   * @param jobId the job
   * @param committed blocks whose parts are all in
   * @param skipped blocks that were resident, or being saved by another job, when it was planned
   * @param dropped planned blocks that were not cached
   */
  default void saveDone(long jobId, int committed, int skipped, int dropped) {}

  /**
   * Read blocks from the SSD into their host slots, in order, and verify each; report {@link
   * SsdReports#readProgress} as they come and {@link SsdReports#readEnded} at the end.
   *
   * @param live whether a request waits for it; if not, everything else goes first
   */
  default void startRead(SsdTransfer read, boolean live) {}

  /** Write blocks from their host slots to the SSD, then report {@link SsdReports#written}. */
  default void startWrite(SsdTransfer write) {}

  /** A read is not wanted any more; its end is reported nevertheless. */
  default void cancelTransfer(long transferId) {}

  /**
   * A block became servable from a tier, that is, it has a copy there now.
   *
   * @param tier where
   * @param namespace the namespace's handle
   * @param group KV group id
   * @param hash the last 8 bytes of the block's hash, big-endian: the hash that KV events use
   * @param parentHash that of its parent, 0 if it has none
   * @param hasParent whether it has a parent, i.e. is not the first block of a chain
   */
  default void stored(
      Tier tier, int namespace, int group, long hash, long parentHash, boolean hasParent) {}

  /** A servable block lost its copy in a tier. Parameters as those of {@link #stored}. */
  default void evicted(Tier tier, int namespace, int group, long hash) {}

  /** A namespace was reset: nothing that was stored before is served again, from any tier. */
  default void cleared(int namespace, int generation) {}
}
