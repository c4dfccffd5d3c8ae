package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import org.jspecify.annotations.Nullable;

/**
 * Blocks [first, first + path.length) of a chain, for which a lease wants host slots and reads: how
 * far that has come. Of a long chain only some are seen to a turn, so that the disk begins with the
 * first while slots for the last are still to be found, and other requests are answered between.
 */
final class ChainRead {
  final Lease lease;

  /** Entries, in the order of the chain; the last one is pinned, and with it all stay. */
  final int[] path;

  final int first;

  /** Blocks of the path that are seen to. */
  int done;

  /** The last of them, pinned, or NONE: host copies above it stay. */
  int guard = NONE;

  /** The read that takes what comes next, not handed over yet. */
  @Nullable Promotion filling;

  /** Whether a read of it was handed over. */
  boolean begun;

  ChainRead(Lease lease, int[] path, int first) {
    this.lease = lease;
    this.path = path;
    this.first = first;
  }

  int deepest() {
    return path[path.length - 1];
  }
}
