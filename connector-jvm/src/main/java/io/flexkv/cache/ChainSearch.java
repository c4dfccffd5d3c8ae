package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

/**
 * Finds how deep a chain is servable, or present at all. Both are monotone along a chain, so this
 * is a binary search: 11 probes for 2,048 blocks. Allocates nothing.
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

  /** The number of blocks from the start that are servable (or just present), within bounds. */
  int depth(RequestChain chain, KeySalt salt, int atLeast, int atMost, boolean servable) {
    int low = atLeast;
    int high = atMost;
    while (low < high) {
      int middle = (low + high + 1) >>> 1;
      int entry = find(chain, salt, middle - 1);
      if (entry != NONE && (!servable || tree.isReady(entry))) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
}
