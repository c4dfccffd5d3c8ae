package io.flexkv.cache;

import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.Set;

/** Blocks of one chain that are being read from the SSD into host slots, in their order. */
final class Promotion {
  final long id;

  /** What the blocks' entries hold as their owner. */
  final int reference;

  /** Its blocks, once it is {@link #seal}ed. */
  int[] entries = new int[16];

  private int added;
  long bytes;

  /** It was handed over to whoever reads. */
  boolean submitted;

  /** Leading blocks that are in their host slots. */
  int ready;

  /** Its read has ended without the rest. */
  boolean failed;

  /** Nobody wanted it any more, and the read was asked to end. */
  boolean cancelled;

  /** Requests that wait for it; with the loads below those that keep it going. */
  final Set<Lease> leases = new LinkedHashSet<>();

  final Set<LoadJob> loads = new LinkedHashSet<>();

  Promotion(long id) {
    this.id = id;
    this.reference = SsdTier.reference(id);
  }

  void add(int entry, long blockBytes) {
    if (added == entries.length) {
      entries = Arrays.copyOf(entries, 2 * added);
    }
    entries[added++] = entry;
    bytes += blockBytes;
  }

  int blocks() {
    return added;
  }

  /** Nothing more is added. */
  void seal() {
    entries = Arrays.copyOf(entries, added);
  }

  boolean wanted() {
    return !leases.isEmpty() || !loads.isEmpty();
  }
}
