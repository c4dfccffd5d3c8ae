package io.flexkv.cache;

import java.util.Map;

/**
 * A snapshot of the cache core: what happened since its start, and what is there now.
 *
 * @param lookups requests that were looked up, however often each asked
 * @param hits those of them that found something beyond the engine's own blocks
 * @param hitBlocks blocks found beyond the engine's own: of a request, the most at once
 * @param loadsPlanned loads that were accepted
 * @param loadsRefused loads that were refused at their plan
 * @param loadPartsOk parts of loads that ended well
 * @param loadPartsFailed parts of loads that failed
 * @param savesPlanned saves that found something to save
 * @param savedBlocks blocks that became servable
 * @param dropped blocks that were planned and not cached, by reason
 * @param evictedBlocks servable blocks that were evicted from the host tier
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
 * @param hostBlocks servable blocks with a copy in the host tier
 * @param ssd the SSD tier
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
    long usedBytes,
    int hostBlocks,
    Ssd ssd) {

  /**
   * The SSD tier; all 0 where there is none.
   *
   * @param blocks servable blocks with a copy there
   * @param hits requests that were answered with blocks of it
   * @param loads loads that began while blocks were still being read
   * @param loadsCut those of them whose rest did not come
   * @param promotedBlocks blocks read into the host tier
   * @param promotionFailedBlocks blocks whose read failed or was taken back
   * @param promotionsDeclined requests that waited for too long or whose read failed
   * @param promotionsCancelled reads that nobody wanted any more
   * @param writtenBlocks blocks written
   * @param writesSkipped blocks that the policy chose and that found no room in the queue or the
   *     tier
   * @param writesFailed blocks whose write failed
   * @param evictedBlocks copies that were evicted for others
   * @param lostBlocks copies that did not verify, or lay in a directory that was lost
   * @param adoptedBlocks blocks that a recovery found
   * @param reads transfers that read now
   * @param writes transfers that write now
   * @param undrained transfers that may still touch their slots, ended or not
   * @param queuedBytes what waits to be written
   * @param capacityBytes what the tier may hold
   * @param usedBytes what is taken of it
   */
  public record Ssd(
      int blocks,
      long hits,
      long loads,
      long loadsCut,
      long promotedBlocks,
      long promotionFailedBlocks,
      long promotionsDeclined,
      long promotionsCancelled,
      long writtenBlocks,
      long writesSkipped,
      long writesFailed,
      long evictedBlocks,
      long lostBlocks,
      long adoptedBlocks,
      int reads,
      int writes,
      int undrained,
      long queuedBytes,
      long capacityBytes,
      long usedBytes) {}
}
