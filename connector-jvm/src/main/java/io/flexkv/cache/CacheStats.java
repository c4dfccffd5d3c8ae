package io.flexkv.cache;

import java.util.Map;

/**
 * A snapshot of the cache core: what happened since its start, and what is there now.
 *
 * @param lookups lookups answered
 * @param hits lookups that found something beyond the engine's own blocks
 * @param hitBlocks blocks found beyond the engine's own
 * @param loadsPlanned loads that were accepted
 * @param loadsRefused loads that were refused at their plan
 * @param loadPartsOk parts of loads that ended well
 * @param loadPartsFailed parts of loads that failed
 * @param savesPlanned saves that found something to save
 * @param savedBlocks blocks that became servable
 * @param dropped blocks that were planned and not cached, by reason
 * @param evictedBlocks servable blocks that were evicted
 * @param ignoredCalls duplicate, late or senseless gos and completions
 * @param namespaces namespaces known
 * @param instances instances open
 * @param chains request chains known
 * @param chainBlocks blocks in them
 * @param leases leases open
 * @param loadJobs loads open
 * @param saveJobs saves open
 * @param parkedGos gos waiting for their plan
 * @param readyBlocks servable blocks
 * @param pendingBlocks blocks on their way in
 * @param quarantinedSlots slots that belong to no block and that a copy may still touch
 * @param capacityBytes what the pool may hold
 * @param usedBytes what is taken of it
 */
public record CacheStats(
    long lookups,
    long hits,
    long hitBlocks,
    long loadsPlanned,
    long loadsRefused,
    long loadPartsOk,
    long loadPartsFailed,
    long savesPlanned,
    long savedBlocks,
    Map<DropReason, Long> dropped,
    long evictedBlocks,
    long ignoredCalls,
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
    long usedBytes) {}
