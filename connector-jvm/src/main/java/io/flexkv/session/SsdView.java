package io.flexkv.session;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.cache.CacheStats;
import io.flexkv.tier.ssd.SsdStats;
import io.flexkv.tier.ssd.SsdStore;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/** What {@code status} tells of the SSD tier. Cache thread. */
final class SsdView {
  private SsdView() {}

  static void put(ObjectNode json, CacheStats.Ssd core, @Nullable SsdStore store) {
    json.put("present", store != null);
    json.put("blocks", core.blocks());
    json.put("hits", core.hits());
    json.put("loads", core.loads());
    json.put("loads_cut", core.loadsCut());
    json.put("promoted_blocks", core.promotedBlocks());
    json.put("promotion_failed_blocks", core.promotionFailedBlocks());
    json.put("promotions_declined", core.promotionsDeclined());
    json.put("promotions_cancelled", core.promotionsCancelled());
    json.put("written_blocks", core.writtenBlocks());
    json.put("writes_skipped", core.writesSkipped());
    json.put("writes_failed", core.writesFailed());
    json.put("evicted_blocks", core.evictedBlocks());
    json.put("lost_blocks", core.lostBlocks());
    json.put("adopted_blocks", core.adoptedBlocks());
    json.put("reads", core.reads());
    json.put("writes", core.writes());
    json.put("undrained", core.undrained());
    json.put("queued_bytes", core.queuedBytes());
    json.put("capacity_bytes", core.capacityBytes());
    json.put("used_bytes", core.usedBytes());
    if (store == null) {
      return;
    }
    json.put("to_give_back", store.surplusBytes());
    ArrayNode directories = json.putArray("directories");
    for (SsdStore.DirectoryStatus status : store.directories()) {
      ObjectNode directory = directories.addObject();
      directory.put("path", status.path().toString());
      directory.put("state", status.state().name().toLowerCase(Locale.ROOT));
      directory.put("capacity_bytes", status.capacityBytes());
      directory.put("used_bytes", status.usedBytes());
      directory.put("cause", status.cause() == null ? "" : status.cause());
      directory.put("attaching", status.attaching());
    }
    SsdStats stats = store.stats();
    ObjectNode io = json.putObject("io");
    io.put("read_blocks", stats.readBlocks());
    io.put("read_bytes", stats.readBytes());
    io.put("written_blocks", stats.writtenBlocks());
    io.put("written_bytes", stats.writtenBytes());
    io.put("corrupt_blocks", stats.corruptBlocks());
    io.put("stale_blocks", stats.staleBlocks());
    io.put("quarantined_bytes", stats.quarantinedBytes());
    io.put("read_errors", stats.readErrors());
    io.put("write_errors", stats.writeErrors());
    io.put("deadlines_missed", stats.deadlinesMissed());
    io.put("scrubbed_blocks", stats.scrubbedBlocks());
  }
}
