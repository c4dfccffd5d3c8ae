package io.flexkv.cache;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** The right of a request to read the first {@link #depth} blocks of its chain in one group. */
final class Lease {
  final long id;
  final RequestChain chain;
  final Namespace namespace;
  final int group;

  /** The deepest block, pinned; its ancestors stay as long as it does. */
  int entry;

  int depth;
  long refreshedAt;

  /** A lookup found blocks for it that are on the SSD alone. */
  boolean announced;

  /** It was asked for again: the engine waits. */
  boolean asked;

  /** It has waited for too long, or its read failed: it gets what the host tier has. */
  boolean declined;

  /** Until when lookups say "ask again". */
  long waitUntil;

  /** Blocks [promotedFrom, promoted) are in host slots or being read into them; 0 = none yet. */
  int promoted;

  int promotedFrom;

  /** The first of them that was not there when the reads began, or NONE. */
  int firstRead = BlockIndex.NONE;

  /** Set while host slots for its blocks are still being found. */
  @Nullable ChainRead reading;

  /** The reads that it waits for. */
  final List<Promotion> promotions = new ArrayList<>(0);

  /** Neighbours in the order of refreshing. */
  @Nullable Lease earlier;

  @Nullable Lease later;

  Lease(long id, RequestChain chain, Namespace namespace, int group) {
    this.id = id;
    this.chain = chain;
    this.namespace = namespace;
    this.group = group;
  }
}
