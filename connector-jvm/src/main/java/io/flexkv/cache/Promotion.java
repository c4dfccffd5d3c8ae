package io.flexkv.cache;

import java.util.LinkedHashSet;
import java.util.Set;

/** Blocks of one chain that are being read from the SSD into host slots, in their order. */
final class Promotion {
  final long id;

  /** What the blocks' entries hold as their owner. */
  final int reference;

  final int[] entries;
  final long bytes;

  /** Leading blocks that are in their host slots. */
  int ready;

  /** Its read has ended without the rest. */
  boolean failed;

  /** Nobody wanted it any more, and the read was asked to end. */
  boolean cancelled;

  /** Requests that wait for it; with the loads below those that keep it going. */
  final Set<Lease> leases = new LinkedHashSet<>();

  final Set<LoadJob> loads = new LinkedHashSet<>();

  Promotion(long id, int[] entries, long bytes) {
    this.id = id;
    this.reference = SsdTier.reference(id);
    this.entries = entries;
    this.bytes = bytes;
  }

  boolean wanted() {
    return !leases.isEmpty() || !loads.isEmpty();
  }
}
