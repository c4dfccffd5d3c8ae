package io.flexkv.cache;

import java.util.ArrayList;
import java.util.List;

/** A load: which slots go to which blocks of the engine, and the pin that keeps the slots. */
final class LoadJob extends Job {
  final int[] gpuBlocks;
  final long[] slots;

  /** Of the blocks, while some are still being read from the SSD; else empty. */
  int[] entries = new int[0];

  /** How many leading blocks are in their slots. */
  AvailableBlocks available = AvailableBlocks.ALL;

  /** The reads that it waits for. */
  final List<Promotion> promotions = new ArrayList<>(0);

  /** The deepest block, pinned; NONE once a reset has taken the blocks away. */
  int pinned;

  /** Planned before a reset: its slots are held in the pool instead of pinned in the tree. */
  boolean stale;

  LoadJob(
      long id,
      int instanceId,
      Namespace namespace,
      int parts,
      long plannedAt,
      int[] gpuBlocks,
      long[] slots,
      int pinned) {
    super(id, instanceId, namespace, parts, plannedAt);
    this.gpuBlocks = gpuBlocks;
    this.slots = slots;
    this.pinned = pinned;
  }
}
