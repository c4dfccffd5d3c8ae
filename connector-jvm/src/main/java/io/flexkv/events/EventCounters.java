package io.flexkv.events;

/** What was told, to all subscribers together. Cache thread only. */
public final class EventCounters {
  long storedTold;
  long evictedTold;
  long listings;
  long overruns;
  long blocksWithoutFacts;

  EventCounters() {}

  void count(boolean stored, int blocks) {
    if (stored) {
      storedTold += blocks;
    } else {
      evictedTold += blocks;
    }
  }

  /** Blocks told to have entered a tier, listings included. */
  public long storedTold() {
    return storedTold;
  }

  /** Blocks told to have left a tier. */
  public long evictedTold() {
    return evictedTold;
  }

  /** Listings begun. */
  public long listings() {
    return listings;
  }

  /** Listings that were needed because a subscriber did not keep up. */
  public long overruns() {
    return overruns;
  }

  /** Blocks that entered a tier and could not be told, because no engine said their tokens. */
  public long blocksWithoutFacts() {
    return blocksWithoutFacts;
  }
}
