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

  /** Blocks with a copy in the host tier, and on the SSD; they go down as well. */
  int hostBlocks;

  int ssdBlocks;

  long ssdHits;
  long ssdLoads;
  long loadsCut;
  long ssdWrittenBlocks;
  long ssdWritesSkipped;
  long ssdWritesFailed;
  long ssdEvictedBlocks;
  long ssdLostBlocks;
  long adoptedBlocks;
  long promotedBlocks;
  long promotionsFailedBlocks;
  long promotionsDeclined;
  long promotionsCancelled;
  private final Map<DropReason, Long> dropped = new EnumMap<>(DropReason.class);

  Counters() {
    for (DropReason reason : DropReason.values()) {
      dropped.put(reason, 0L);
    }
  }

  void drop(DropReason reason, long blocks) {
    dropped.merge(reason, blocks, Long::sum);
  }

  /** What happened, together with what is there now; see {@link CacheStats}. */
  CacheStats snapshot(
      int namespaces,
      int instances,
      int chains,
      long chainBlocks,
      int leases,
      int loadJobs,
      int saveJobs,
      int parkedGos,
      int readyBlocks,
      int pendingBlocks,
      int quarantinedSlots,
      long capacityBytes,
      long usedBytes,
      SsdUse ssdUse) {
    return new CacheStats(
        lookups,
        hits,
        hitBlocks,
        loadsPlanned,
        loadsRefused,
        loadPartsOk,
        loadPartsFailed,
        savesPlanned,
        savedBlocks,
        Collections.unmodifiableMap(new EnumMap<>(dropped)),
        evictedBlocks,
        ignoredCalls,
        namespaces,
        instances,
        chains,
        chainBlocks,
        leases,
        loadJobs,
        saveJobs,
        parkedGos,
        readyBlocks,
        pendingBlocks,
        quarantinedSlots,
        capacityBytes,
        usedBytes,
        hostBlocks,
        ssd(ssdUse));
  }

  /** What is there now of the SSD tier. */
  record SsdUse(
      int reads, int writes, int undrained, long queuedBytes, long capacityBytes, long usedBytes) {}

  private CacheStats.Ssd ssd(SsdUse use) {
    return new CacheStats.Ssd(
        ssdBlocks,
        ssdHits,
        ssdLoads,
        loadsCut,
        promotedBlocks,
        promotionsFailedBlocks,
        promotionsDeclined,
        promotionsCancelled,
        ssdWrittenBlocks,
        ssdWritesSkipped,
        ssdWritesFailed,
        ssdEvictedBlocks,
        ssdLostBlocks,
        adoptedBlocks,
        use.reads,
        use.writes,
        use.undrained,
        use.queuedBytes,
        use.capacityBytes,
        use.usedBytes);
  }
}
