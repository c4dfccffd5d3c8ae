package io.flexkv.cache;

import java.util.function.LongSupplier;

/**
 * Which of two blocks {@link HeapPolicy} gives up first, and what is remembered of a block for it:
 * one long ({@link PolicyFields#recency}) and a number of hits ({@link PolicyFields#hits}).
 *
 * <p>A lookup touches only the deepest block that it can serve, although it uses the whole chain.
 * So what a block knows of its use goes to its parent when it is removed ({@link #absorb}): a block
 * without children then knows of every use of itself.
 */
abstract sealed class EvictionOrder {
  final BlockIndex index;
  final int recency;
  private final int hits;

  EvictionOrder(BlockIndex index, PolicyFields fields) {
    this.index = index;
    this.recency = fields.recency();
    this.hits = fields.hits();
  }

  /** An entry became servable; nobody has hit it yet. */
  abstract void added(int entry);

  /** A lookup ended here. */
  abstract void hit(int entry);

  /** A child goes; what it knows counts for its parent. */
  void absorb(int parent, int child) {
    long used = index.getLong(child, recency);
    if (used - index.getLong(parent, recency) > 0) {
      index.setLong(parent, recency, used);
    }
    addHits(parent, hits(child));
    forgetHits(child);
  }

  /** Whether {@code a} goes before {@code b}. */
  abstract boolean before(int a, int b);

  final int hits(int entry) {
    return index.getInt(entry, hits);
  }

  /** By difference, so that a clock of any origin will do; ties by handle, so that runs repeat. */
  final boolean earlier(int a, int b) {
    long difference = index.getLong(a, recency) - index.getLong(b, recency);
    return difference == 0 ? a < b : difference < 0;
  }

  final boolean later(int a, int b) {
    long difference = index.getLong(a, recency) - index.getLong(b, recency);
    return difference == 0 ? a > b : difference > 0;
  }

  final void forgetHits(int entry) {
    index.setInt(entry, hits, 0);
  }

  final void addHits(int entry, int more) {
    index.setInt(entry, hits, (int) Math.min((long) hits(entry) + more, Integer.MAX_VALUE));
  }

  /** Times of use in ticks, and hits. */
  abstract static sealed class ByUse extends EvictionOrder {
    private final PolicyEra.Ticks ticks;

    ByUse(BlockIndex index, PolicyFields fields, PolicyEra.Ticks ticks) {
      super(index, fields);
      this.ticks = ticks;
    }

    @Override
    final void added(int entry) {
      index.setLong(entry, recency, ticks.next());
      forgetHits(entry);
    }

    @Override
    final void hit(int entry) {
      index.setLong(entry, recency, ticks.next());
      addHits(entry, 1);
    }
  }

  /** {@code lfu}: fewest hits first, among equals the one used longest ago. */
  static final class Lfu extends ByUse {
    Lfu(BlockIndex index, PolicyFields fields, PolicyEra.Ticks ticks) {
      super(index, fields, ticks);
    }

    @Override
    boolean before(int a, int b) {
      return hits(a) == hits(b) ? earlier(a, b) : hits(a) < hits(b);
    }
  }

  /** {@code slru}: blocks with few hits first, within both kinds the one used longest ago. */
  static final class Slru extends ByUse {
    private final int protectedHits;

    Slru(BlockIndex index, PolicyFields fields, PolicyEra.Ticks ticks, int protectedHits) {
      super(index, fields, ticks);
      this.protectedHits = protectedHits;
    }

    @Override
    boolean before(int a, int b) {
      boolean keepsA = hits(a) >= protectedHits;
      boolean keepsB = hits(b) >= protectedHits;
      return keepsA == keepsB ? earlier(a, b) : keepsB;
    }
  }

  /** {@code mru}: the one used last first. */
  static final class Mru extends ByUse {
    Mru(BlockIndex index, PolicyFields fields, PolicyEra.Ticks ticks) {
      super(index, fields, ticks);
    }

    @Override
    boolean before(int a, int b) {
      return later(a, b);
    }
  }

  /** {@code fifo} and {@code filo}: by the time at which a block became servable. */
  static final class ByCreation extends EvictionOrder {
    private final PolicyEra.Ticks ticks;
    private final boolean newestFirst;

    ByCreation(BlockIndex index, PolicyFields fields, PolicyEra.Ticks ticks, boolean newestFirst) {
      super(index, fields);
      this.ticks = ticks;
      this.newestFirst = newestFirst;
    }

    @Override
    void added(int entry) {
      index.setLong(entry, recency, ticks.next());
      forgetHits(entry);
    }

    @Override
    void hit(int entry) {
      // Use changes nothing.
    }

    @Override
    void absorb(int parent, int child) {
      // A parent keeps its own age.
    }

    @Override
    boolean before(int a, int b) {
      return newestFirst ? later(a, b) : earlier(a, b);
    }
  }

  /**
   * {@code lru} with a reward: a hit keeps a block until a while from now, and each further hit
   * meanwhile prolongs that. The long is the end of that grace on the clock.
   */
  static final class RewardedLru extends EvictionOrder {
    private final LongSupplier nanoTime;
    private final long rewardNanos;

    RewardedLru(BlockIndex index, PolicyFields fields, LongSupplier nanoTime, long rewardNanos) {
      super(index, fields);
      this.nanoTime = nanoTime;
      this.rewardNanos = rewardNanos;
    }

    @Override
    void added(int entry) {
      index.setLong(entry, recency, nanoTime.getAsLong());
      forgetHits(entry);
    }

    @Override
    void hit(int entry) {
      long now = nanoTime.getAsLong();
      long grace = index.getLong(entry, recency);
      index.setLong(entry, recency, (grace - now > 0 ? grace : now) + rewardNanos);
    }

    @Override
    boolean before(int a, int b) {
      return earlier(a, b);
    }
  }
}
