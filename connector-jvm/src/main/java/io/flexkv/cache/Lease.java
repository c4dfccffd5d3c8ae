package io.flexkv.cache;

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
