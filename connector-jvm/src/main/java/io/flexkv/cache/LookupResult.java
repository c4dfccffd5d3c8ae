package io.flexkv.cache;

/**
 * The answer to a lookup. {@link CacheCore} owns one and fills it again at each lookup, so that a
 * lookup allocates nothing: read it before the next call.
 */
public final class LookupResult {
  private int chainBlocks;
  private int servableBlocks;
  private int residentBlocks;
  private long leaseId;
  private int generation;
  private int hostBlocks;
  private int ssdBlocks;
  private boolean pending;

  LookupResult() {}

  LookupResult set(int chain, int servable, int resident, long lease, int nowGeneration) {
    hostBlocks = servable;
    ssdBlocks = servable;
    pending = false;
    chainBlocks = chain;
    servableBlocks = servable;
    residentBlocks = resident;
    leaseId = lease;
    generation = nowGeneration;
    return this;
  }

  /** Blocks of the request's chain that are known; 0 if there is no chain. */
  public int chainBlocks() {
    return chainBlocks;
  }

  /**
   * Blocks from the start of the chain that can be loaded now; never more than were asked for. May
   * be less than what the engine has itself.
   */
  public int servableBlocks() {
    return servableBlocks;
  }

  /** Blocks from the start of the whole chain that are servable or on their way in. */
  public int residentBlocks() {
    return residentBlocks;
  }

  /** The lease on the servable blocks, or 0 if nothing is servable beyond the engine's own. */
  public long leaseId() {
    return leaseId;
  }

  /** The namespace's generation that this answer holds for. */
  public int generation() {
    return generation;
  }

  LookupResult withTiers(int host, int ssd, boolean askAgain) {
    hostBlocks = host;
    ssdBlocks = ssd;
    pending = askAgain;
    return this;
  }

  /** Blocks from the start of the chain that are in the host tier. */
  public int hostBlocks() {
    return hostBlocks;
  }

  /** Blocks from the start of the chain that are in the host tier or on the SSD. */
  public int ssdBlocks() {
    return ssdBlocks;
  }

  /** Whether blocks are being brought from the SSD and none is there yet: ask again. */
  public boolean pending() {
    return pending;
  }
}
