package io.flexkv.session;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.cache.CacheStats;
import io.flexkv.cache.DropReason;
import io.flexkv.events.EventCounters;
import io.flexkv.events.EventHub;
import io.flexkv.transfer.JobStages;
import io.flexkv.transfer.MoverCounters;
import java.util.Locale;
import java.util.Map;

/** What {@code status} tells of sessions, instances and the cache core. Cache thread. */
final class StatusView {
  private StatusView() {}

  static JsonNode of(CacheAgent agent) {
    ObjectNode json = Json.newObject();
    ArrayNode sessions = json.putArray("sessions");
    for (Session session : agent.directory().sessions()) {
      ObjectNode s = sessions.addObject();
      s.put("id", session.id);
      s.put("role", session.hello.role());
      s.put("role_name", session.hello.roleName());
      s.put("instance", session.hello.instance());
      s.put("rank", session.hello.rank());
      s.put("pid", session.peerPid);
      s.put("rings", session.hello.rings());
    }
    ArrayNode instances = json.putArray("instances");
    for (Instance instance : agent.directory().instances()) {
      ObjectNode i = instances.addObject();
      String missing = instance.missing();
      i.put("name", instance.name);
      i.put("ready", instance.ready);
      i.put("missing", missing == null ? "" : missing);
      i.put("world_size", instance.worldSize());
      ArrayNode ranks = i.putArray("ranks");
      for (int rank = 0; rank < instance.worldSize(); rank++) {
        Registration registration = instance.ranks[rank];
        if (registration != null) {
          ObjectNode r = ranks.addObject();
          r.put("rank", rank);
          MoverCounters moved = registration.mover.counters();
          side(r.putObject("save"), moved.save());
          side(r.putObject("load"), moved.load());
        }
      }
    }
    counters(json.putObject("cache"), agent.stats());
    SsdView.put(json.putObject("ssd"), agent.stats().ssd(), agent.ssd().store());
    json.put("open_parts", agent.openParts());
    events(json.putObject("events"), agent.events());
    return json;
  }

  private static void events(ObjectNode json, EventHub hub) {
    EventCounters told = hub.counters();
    json.put("known_blocks", hub.knownBlocks());
    json.put("stored_told", told.storedTold());
    json.put("evicted_told", told.evictedTold());
    json.put("listings", told.listings());
    json.put("overruns", told.overruns());
    json.put("blocks_without_facts", told.blocksWithoutFacts());
  }

  private static void side(ObjectNode json, MoverCounters.Side side) {
    json.put("bytes", side.bytes());
    json.put("slices", side.slices());
    json.put("busy_us", side.busyNanos() / 1000);
    json.put("jobs_ok", side.jobsOk());
    json.put("jobs_failed", side.jobsFailed());
    json.put("jobs_revoked", side.jobsRevoked());
    JobStages last = side.last();
    ObjectNode stages = json.putObject("last_job");
    stages.put("job_id", last.jobId());
    stages.put("arrived_ns", last.arrived());
    stages.put("fence_reached_ns", last.fenceReached());
    stages.put("first_slice_ns", last.firstSlice());
    stages.put("last_slice_ns", last.lastSlice());
    stages.put("ended_ns", last.ended());
  }

  private static void counters(ObjectNode json, CacheStats s) {
    json.put("lookups", s.lookups());
    json.put("hits", s.hits());
    json.put("hit_blocks", s.hitBlocks());
    json.put("loads_planned", s.loadsPlanned());
    json.put("loads_refused", s.loadsRefused());
    json.put("load_parts_ok", s.loadPartsOk());
    json.put("load_parts_failed", s.loadPartsFailed());
    json.put("saves_planned", s.savesPlanned());
    json.put("saved_blocks", s.savedBlocks());
    ObjectNode dropped = json.putObject("dropped_blocks");
    for (Map.Entry<DropReason, Long> entry : s.dropped().entrySet()) {
      dropped.put(entry.getKey().name().toLowerCase(Locale.ROOT), entry.getValue());
    }
    json.put("evicted_blocks", s.evictedBlocks());
    json.put("ignored_calls", s.ignoredCalls());
    json.put("namespaces", s.namespaces());
    json.put("open_instances", s.instances());
    json.put("chains", s.chains());
    json.put("chain_blocks", s.chainBlocks());
    json.put("leases", s.leases());
    json.put("load_jobs", s.loadJobs());
    json.put("save_jobs", s.saveJobs());
    json.put("parked_gos", s.parkedGos());
    json.put("ready_blocks", s.readyBlocks());
    json.put("host_blocks", s.hostBlocks());
    json.put("pending_blocks", s.pendingBlocks());
    json.put("quarantined_slots", s.quarantinedSlots());
    json.put("capacity_bytes", s.capacityBytes());
    json.put("used_bytes", s.usedBytes());
  }
}
