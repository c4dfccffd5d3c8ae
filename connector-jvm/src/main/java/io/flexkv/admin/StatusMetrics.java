package io.flexkv.admin;

import com.fasterxml.jackson.databind.JsonNode;
import io.prometheus.metrics.model.snapshots.CounterSnapshot;
import io.prometheus.metrics.model.snapshots.CounterSnapshot.CounterDataPointSnapshot;
import io.prometheus.metrics.model.snapshots.GaugeSnapshot;
import io.prometheus.metrics.model.snapshots.GaugeSnapshot.GaugeDataPointSnapshot;
import io.prometheus.metrics.model.snapshots.Labels;
import io.prometheus.metrics.model.snapshots.MetricSnapshot;
import io.prometheus.metrics.model.snapshots.MetricSnapshots;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The sidecar's status as Prometheus metrics, so that both always say the same. Which figure is
 * which metric is a table ({@link #FIGURES}); what there is several of (directories, ranks) has the
 * methods below it. Figures that a status lacks are left out.
 */
final class StatusMetrics {
  private enum Kind {
    COUNTER,
    GAUGE
  }

  /**
   * One figure.
   *
   * @param name of the metric, without the {@code _total} that Prometheus adds to counters
   * @param pointer where the figure is in the status (a JSON pointer)
   * @param labels names and values in turns
   */
  private record Figure(Kind kind, String name, String help, String pointer, List<String> labels) {}

  private static final String LOADED = "Ranks' parts of loads that ended";
  private static final String EVICTED = "Blocks evicted";
  private static final String BLOCKS = "Blocks that can be served";
  private static final String CAPACITY = "Size of a tier";
  private static final String USED = "Bytes of the slots that are taken";
  private static final String OPEN = "Jobs that have not ended";
  private static final String UNDER_WAY = "Transfers of the SSD under way";
  private static final String TRANSFERRED = "Payload read from and written to the SSD";
  private static final String REFUSED = "Accesses that a disk refused";
  private static final String HITS =
      "Requests that found something, also where the engine had it itself";
  private static final String TOLD = "KV events told to engines";

  private static final List<Figure> FIGURES =
      List.of(
          counter("flexkv_lookups", "Requests looked up", "/cache/lookups"),
          counter("flexkv_hits", HITS, "/cache/hits"),
          counter("flexkv_hit_blocks", "Blocks that those found", "/cache/hit_blocks"),
          counter("flexkv_loads_planned", "Loads planned", "/cache/loads_planned"),
          counter("flexkv_loads_refused", "Loads refused", "/cache/loads_refused"),
          counter("flexkv_load_parts", LOADED, "/cache/load_parts_ok", "result", "ok"),
          counter("flexkv_load_parts", LOADED, "/cache/load_parts_failed", "result", "failed"),
          counter("flexkv_saves_planned", "Saves planned", "/cache/saves_planned"),
          counter("flexkv_saved_blocks", "Blocks saved", "/cache/saved_blocks"),
          counter("flexkv_evicted_blocks", EVICTED, "/cache/evicted_blocks", "tier", "host"),
          counter("flexkv_evicted_blocks", EVICTED, "/ssd/evicted_blocks", "tier", "ssd"),
          gauge("flexkv_blocks", BLOCKS, "/cache/host_blocks", "tier", "host"),
          gauge("flexkv_blocks", BLOCKS, "/ssd/blocks", "tier", "ssd"),
          gauge("flexkv_capacity_bytes", CAPACITY, "/cache/capacity_bytes", "tier", "host"),
          gauge("flexkv_capacity_bytes", CAPACITY, "/ssd/capacity_bytes", "tier", "ssd"),
          gauge("flexkv_used_bytes", USED, "/cache/used_bytes", "tier", "host"),
          gauge("flexkv_used_bytes", USED, "/ssd/used_bytes", "tier", "ssd"),
          gauge("flexkv_engines", "Engines with a session", "/cache/open_instances"),
          gauge("flexkv_leases", "Leases held", "/cache/leases"),
          gauge("flexkv_open_jobs", OPEN, "/cache/load_jobs", "kind", "load"),
          gauge("flexkv_open_jobs", OPEN, "/cache/save_jobs", "kind", "save"),
          gauge("flexkv_quarantined_slots", "Slots kept for copies", "/cache/quarantined_slots"),
          counter("flexkv_ssd_hits", "Requests served from the SSD", "/ssd/hits"),
          counter("flexkv_ssd_loads", "Loads that began before their last read", "/ssd/loads"),
          counter("flexkv_ssd_loads_cut", "Those whose reads failed", "/ssd/loads_cut"),
          counter("flexkv_ssd_promoted_blocks", "Blocks read", "/ssd/promoted_blocks"),
          counter("flexkv_ssd_promotions_declined", "Not waited for", "/ssd/promotions_declined"),
          counter("flexkv_ssd_promotions_cancelled", "Taken back", "/ssd/promotions_cancelled"),
          counter("flexkv_ssd_written_blocks", "Blocks written", "/ssd/written_blocks"),
          counter("flexkv_ssd_writes_skipped", "Not written, no room", "/ssd/writes_skipped"),
          counter("flexkv_ssd_writes_failed", "Blocks not stored", "/ssd/writes_failed"),
          counter("flexkv_ssd_lost_blocks", "Blocks lost on the SSD", "/ssd/lost_blocks"),
          counter("flexkv_ssd_adopted_blocks", "Found after the start", "/ssd/adopted_blocks"),
          gauge("flexkv_ssd_open_transfers", UNDER_WAY, "/ssd/reads", "kind", "read"),
          gauge("flexkv_ssd_open_transfers", UNDER_WAY, "/ssd/writes", "kind", "write"),
          gauge("flexkv_ssd_queued_bytes", "Wait to be written", "/ssd/queued_bytes"),
          counter("flexkv_ssd_bytes", TRANSFERRED, "/ssd/io/read_bytes", "kind", "read"),
          counter("flexkv_ssd_bytes", TRANSFERRED, "/ssd/io/written_bytes", "kind", "write"),
          counter("flexkv_ssd_errors", REFUSED, "/ssd/io/read_errors", "kind", "read"),
          counter("flexkv_ssd_errors", REFUSED, "/ssd/io/write_errors", "kind", "write"),
          counter("flexkv_ssd_corrupt_blocks", "Did not verify", "/ssd/io/corrupt_blocks"),
          counter("flexkv_ssd_stale_blocks", "Of those, torn at a kill", "/ssd/io/stale_blocks"),
          counter("flexkv_ssd_deadlines_missed", "Reads too slow", "/ssd/io/deadlines_missed"),
          counter("flexkv_ssd_scrubbed_blocks", "Read by the scrub", "/ssd/io/scrubbed_blocks"),
          gauge("flexkv_ssd_quarantined_bytes", "Not used again", "/ssd/io/quarantined_bytes"),
          counter("flexkv_events_told", TOLD, "/events/stored_told", "kind", "stored"),
          counter("flexkv_events_told", TOLD, "/events/evicted_told", "kind", "evicted"));

  /** What is gathered under one name. */
  private static final class Family {
    final Kind kind;
    final String help;
    final Map<Labels, Double> points = new LinkedHashMap<>();

    Family(Kind kind, String help) {
      this.kind = kind;
      this.help = help;
    }
  }

  private final Map<String, Family> families = new LinkedHashMap<>();

  private StatusMetrics() {}

  /** All that a status says. */
  static MetricSnapshots of(JsonNode status) {
    StatusMetrics metrics = new StatusMetrics();
    metrics.add(Kind.GAUGE, "flexkv_answers", "Whether the cache thread answered", 1);
    for (Figure figure : FIGURES) {
      JsonNode value = status.at(figure.pointer);
      if (value.isNumber()) {
        String[] labels = figure.labels.toArray(String[]::new);
        metrics.add(figure.kind, figure.name, figure.help, value.asDouble(), labels);
      }
    }
    metrics.dropped(status.at("/cache/dropped_blocks"));
    metrics.directories(status.at("/ssd/directories"));
    metrics.ranks(status.path("instances"));
    return metrics.snapshots();
  }

  /** There is no status. */
  static MetricSnapshots silent() {
    StatusMetrics metrics = new StatusMetrics();
    metrics.add(Kind.GAUGE, "flexkv_answers", "Whether the cache thread answered", 0);
    return metrics.snapshots();
  }

  private void dropped(JsonNode byReason) {
    byReason
        .properties()
        .forEach(entry ->
            add(
                Kind.COUNTER,
                "flexkv_dropped_blocks",
                "Blocks that were to be saved and were not",
                entry.getValue().asDouble(),
                "reason",
                entry.getKey()));
  }

  private void directories(JsonNode directories) {
    for (JsonNode directory : directories) {
      String path = directory.path("path").asText();
      boolean serves = directory.path("state").asText().equals("serving");
      add(
          Kind.GAUGE,
          "flexkv_ssd_directory_serves",
          "Whether a directory takes part",
          serves ? 1 : 0,
          "path",
          path);
      add(
          Kind.GAUGE,
          "flexkv_ssd_directory_used_bytes",
          "Bytes of its slots that are taken",
          directory.path("used_bytes").asDouble(),
          "path",
          path);
    }
  }

  private void ranks(JsonNode instances) {
    for (JsonNode instance : instances) {
      String engine = instance.path("name").asText();
      boolean ready = instance.path("ready").asBoolean();
      add(
          Kind.GAUGE,
          "flexkv_engine_ready",
          "Whether all ranks are registered",
          ready ? 1 : 0,
          "engine",
          engine);
      for (JsonNode rank : instance.path("ranks")) {
        for (String kind : List.of("load", "save")) {
          moved(rank.path(kind), "engine", engine, "rank", rank.path("rank").asText(), kind);
        }
      }
    }
  }

  private void moved(JsonNode side, String a, String engine, String b, String rank, String kind) {
    String[] labels = {a, engine, b, rank, "kind", kind};
    add(
        Kind.COUNTER,
        "flexkv_copied_bytes",
        "Bytes copied for a rank since it registered",
        side.path("bytes").asDouble(),
        labels);
    add(
        Kind.COUNTER,
        "flexkv_copy_busy_seconds",
        "Time with a copy of it on its way",
        side.path("busy_us").asDouble() / 1e6,
        labels);
  }

  private void add(Kind kind, String name, String help, double value, String... labels) {
    families
        .computeIfAbsent(name, n -> new Family(kind, help))
        .points
        .put(Labels.of(labels), value);
  }

  private MetricSnapshots snapshots() {
    List<MetricSnapshot> all = new ArrayList<>();
    families.forEach((name, family) -> all.add(snapshot(name, family)));
    return new MetricSnapshots(all);
  }

  private static MetricSnapshot snapshot(String name, Family family) {
    if (family.kind == Kind.COUNTER) {
      CounterSnapshot.Builder counter = CounterSnapshot.builder().name(name).help(family.help);
      family.points.forEach((labels, value) ->
          counter.dataPoint(
              CounterDataPointSnapshot.builder().labels(labels).value(value).build()));
      return counter.build();
    }
    GaugeSnapshot.Builder gauge = GaugeSnapshot.builder().name(name).help(family.help);
    family.points.forEach((labels, value) ->
        gauge.dataPoint(GaugeDataPointSnapshot.builder().labels(labels).value(value).build()));
    return gauge.build();
  }

  private static Figure counter(String name, String help, String pointer, String... labels) {
    return new Figure(Kind.COUNTER, name, help, pointer, List.of(labels));
  }

  private static Figure gauge(String name, String help, String pointer, String... labels) {
    return new Figure(Kind.GAUGE, name, help, pointer, List.of(labels));
  }
}
