package io.flexkv.cache;

import static io.flexkv.cache.EntryLayout.NAMESPACE;
import static io.flexkv.cache.EntryLayout.READY;
import static io.flexkv.cache.EntryLayout.STATE;

/**
 * Tells new eviction policies of the blocks that are there: few at once, many a portion a call,
 * because lookups wait meanwhile (ten million take some seconds in all).
 *
 * <p>Until that is over victims are chosen among those that are known; a policy learns of the
 * others in the order of their handles, which says nothing of their worth. So a few thousand of the
 * first blocks that go may be younger than some that stay.
 *
 * <p>Cache thread only.
 */
final class PolicyLearning {
  /** Entries that a call looks at: some 50 µs. */
  static final int PORTION = 256;

  /** Entries that a change itself looks at: some milliseconds. So there are victims at once. */
  static final int AT_ONCE = 1 << 14;

  private final BlockIndex index;
  private final Namespaces namespaces;
  private int next = Integer.MAX_VALUE;

  PolicyLearning(BlockIndex index, Namespaces namespaces) {
    this.index = index;
    this.namespaces = namespaces;
  }

  /** There are new policies, which know nothing. */
  void begin() {
    next = 0;
    step(AT_ONCE);
  }

  /** The next portion; returns how much it looked at, 0 where all is known. */
  int step() {
    return step(PORTION);
  }

  private int step(int most) {
    int first = next;
    int until = Math.min(index.handles(), next + Math.min(most, Integer.MAX_VALUE - next));
    for (; next < until; next++) {
      if (index.isEntry(next) && index.getInt(next, STATE) == READY) {
        tell(next);
      }
    }
    if (next >= index.handles()) {
      next = Integer.MAX_VALUE;
    }
    return Math.max(0, until - first);
  }

  private void tell(int entry) {
    Namespace namespace = namespaces.require(index.getInt(entry, NAMESPACE));
    for (Tier tier : Tier.values()) {
      if (Copies.servableFrom(tier, index, entry)) {
        namespace.policy(tier).learn(entry);
      }
    }
  }
}
