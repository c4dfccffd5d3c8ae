package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.admin.MetricsServer;
import io.flexkv.cache.CacheStats;
import io.flexkv.tier.ssd.SsdStats;
import io.flexkv.tier.ssd.SsdStore;
import java.lang.reflect.Proxy;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

/** Each figure of the SSD tier, all different, from where it is counted to a scrape. */
class SsdMetricsTest {
  private static final CacheStats.Ssd CORE =
      new CacheStats.Ssd(
          101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118,
          119, 120);

  private static final SsdStats STATS =
      new SsdStats(201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212);

  private static final List<SsdStore.DirectoryStatus> DIRECTORIES =
      List.of(
          new SsdStore.DirectoryStatus(
              Path.of("/a"), SsdStore.State.SERVING, 999, 301, null, false),
          new SsdStore.DirectoryStatus(
              Path.of("/b"), SsdStore.State.STALLED, 999, 302, "slow", false));

  private static final SsdStore STORE =
      (SsdStore)
          Proxy.newProxyInstance(
              SsdStore.class.getClassLoader(),
              new Class<?>[] {SsdStore.class},
              (proxy, method, args) ->
                  switch (method.getName()) {
                    case "directories" -> DIRECTORIES;
                    case "stats" -> STATS;
                    case "surplusBytes" -> 0L;
                    default -> throw new UnsupportedOperationException(method.getName());
                  });

  @Test
  void scrape_everyFigureOfTheTier_isTheOneThatWasCounted() throws Exception {
    ObjectNode status = new ObjectMapper().createObjectNode();
    SsdView.put(status.putObject("ssd"), CORE, STORE);
    try (MetricsServer server = MetricsServer.start("127.0.0.1", 0, () -> status)) {
      URI uri = URI.create("http://127.0.0.1:" + server.port() + "/metrics");
      try (HttpClient client = HttpClient.newHttpClient()) {
        String scraped =
            client
                .send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString())
                .body();
        assertThat(scraped.lines().filter(line -> !line.startsWith("#")))
            .containsExactlyInAnyOrder(
                "flexkv_answers 1.0",
                "flexkv_blocks{tier=\"ssd\"} 101.0",
                "flexkv_ssd_hits_total 102.0",
                "flexkv_ssd_loads_total 103.0",
                "flexkv_ssd_loads_cut_total 104.0",
                "flexkv_ssd_promoted_blocks_total 105.0",
                "flexkv_ssd_promotions_declined_total 107.0",
                "flexkv_ssd_promotions_cancelled_total 108.0",
                "flexkv_ssd_written_blocks_total 109.0",
                "flexkv_ssd_writes_skipped_total 110.0",
                "flexkv_ssd_writes_failed_total 111.0",
                "flexkv_evicted_blocks_total{tier=\"ssd\"} 112.0",
                "flexkv_ssd_lost_blocks_total 113.0",
                "flexkv_ssd_adopted_blocks_total 114.0",
                "flexkv_ssd_open_transfers{kind=\"read\"} 115.0",
                "flexkv_ssd_open_transfers{kind=\"write\"} 116.0",
                "flexkv_ssd_queued_bytes 118.0",
                "flexkv_capacity_bytes{tier=\"ssd\"} 119.0",
                "flexkv_used_bytes{tier=\"ssd\"} 120.0",
                "flexkv_ssd_bytes_total{kind=\"read\"} 202.0",
                "flexkv_ssd_bytes_total{kind=\"write\"} 204.0",
                "flexkv_ssd_corrupt_blocks_total 206.0",
                "flexkv_ssd_stale_blocks_total 207.0",
                "flexkv_ssd_quarantined_bytes 208.0",
                "flexkv_ssd_errors_total{kind=\"read\"} 209.0",
                "flexkv_ssd_errors_total{kind=\"write\"} 210.0",
                "flexkv_ssd_deadlines_missed_total 211.0",
                "flexkv_ssd_scrubbed_blocks_total 212.0",
                "flexkv_ssd_directory_serves{path=\"/a\"} 1.0",
                "flexkv_ssd_directory_serves{path=\"/b\"} 0.0",
                "flexkv_ssd_directory_used_bytes{path=\"/a\"} 301.0",
                "flexkv_ssd_directory_used_bytes{path=\"/b\"} 302.0");
      }
    }
  }
}
