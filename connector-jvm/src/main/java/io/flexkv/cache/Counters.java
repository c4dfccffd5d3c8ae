package io.flexkv.cache;

import java.util.Collections;
import java.util.EnumMap;
import java.util.Map;

/** What happened since the start; plain fields, for the cache thread alone. */
final class Counters {
  long lookups;
  long hits;
  long hitBlocks;
  long loadsPlanned;
  long loadsRefused;
  long loadPartsOk;
  long loadPartsFailed;
  long savesPlanned;
  long savedBlocks;
  long evictedBlocks;
  long ignoredCalls;
  private final Map<DropReason, Long> dropped = new EnumMap<>(DropReason.class);

  Counters() {
    for (DropReason reason : DropReason.values()) {
      dropped.put(reason, 0L);
    }
  }

  void drop(DropReason reason, long blocks) {
    dropped.merge(reason, blocks, Long::sum);
  }

  Map<DropReason, Long> dropped() {
    return Collections.unmodifiableMap(new EnumMap<>(dropped));
  }
}
