package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

/**
 * Finds how deep a chain is servable from the host tier, from any, or present at all. All three are
 * monotone along a chain, so this is a binary search: 11 probes for 2,048 blocks. Allocates
 * nothing.
 */
final class ChainSearch {
  private final BlockTree tree;
  private final KeyProbe probe = new KeyProbe();

  ChainSearch(BlockTree tree) {
    this.tree = tree;
  }

  /** The entry of a block of a chain, or NONE. */
  int find(RequestChain chain, KeySalt salt, int block) {
    return tree.find(probe.set(salt, chain.hashHi(block), chain.hashLo(block)));
  }

  /** What is asked of the blocks of a chain; each is monotone along it. */
  enum Level {
    /** Servable from the host tier, as all before it. */
    HOT,
    /** Servable from some tier. */
    SERVABLE,
    /** Servable, or on its way in. */
    PRESENT
  }

  /** The number of blocks from the start that are at this level, within bounds. */
  int depth(RequestChain chain, KeySalt salt, int atLeast, int atMost, Level level) {
    int low = atLeast;
    int high = atMost;
    while (low < high) {
      int middle = (low + high + 1) >>> 1;
      int entry = find(chain, salt, middle - 1);
      if (entry != NONE && is(entry, level)) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  private boolean is(int entry, Level level) {
    return switch (level) {
      case HOT -> tree.copies().hot(entry);
      case SERVABLE -> tree.isReady(entry);
      case PRESENT -> true;
    };
  }
}
