package io.flexkv.cache;

/** Why a block that was planned to be saved is not cached. */
public enum DropReason {
  /** The chain is not known, or the plan names blocks beyond its end. */
  UNKNOWN_CHAIN,
  /** The namespace was reset after this request's last lookup: the bytes may be from before. */
  STALE_GENERATION,
  /** The parent of the first block to save is neither resident nor being saved. */
  PARENT_MISSING,
  /** No slot was free and nothing could be evicted. */
  POOL_FULL,
  /** One of the limits of {@link CacheConfig} was met, or the plan's sizes make no sense. */
  REFUSED,
  /** The copy failed, or the engine had given the block to somebody else before it ended. */
  COPY_LOST,
  /** A block before it on the chain was dropped. */
  PARENT_LOST,
  /** A part's go never came. */
  NO_GO,
  /** A rank that holds one of the parts has gone. */
  PART_ABANDONED,
  /** The instance that was saving it has ended. */
  INSTANCE_CLOSED,
  /** The namespace was reset. */
  RESET
}
