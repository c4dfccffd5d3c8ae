package io.flexkv.admin;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.flexkv.protocol.RequestException;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import org.junit.jupiter.api.Test;

class MetricsServerTest {
  private static final String STATUS =
      """
      {"cache": {"lookups": 7, "hits": 3, "host_blocks": 5, "load_jobs": 1,
                 "dropped_blocks": {"no_room": 4}},
       "ssd": {"blocks": 9, "hits": 2, "io": {"read_bytes": 4096},
               "directories": [{"path": "/d", "state": "lost", "used_bytes": 10}]},
       "instances": [{"name": "e1", "ready": true,
                      "ranks": [{"rank": 0, "load": {"bytes": 64, "busy_us": 500000},
                                 "save": {"bytes": 0, "busy_us": 0}}]}]}
      """;

  private static String scrape(MetricsServer server) throws Exception {
    URI uri = URI.create("http://127.0.0.1:" + server.port() + "/metrics");
    try (HttpClient client = HttpClient.newHttpClient()) {
      return client
          .send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString())
          .body();
    }
  }

  @Test
  void scrape_saysWhatTheStatusSays() throws Exception {
    JsonNode status = new ObjectMapper().readTree(STATUS);
    try (MetricsServer server = MetricsServer.start("127.0.0.1", 0, () -> status)) {
      assertThat(scrape(server))
          .contains("# TYPE flexkv_lookups_total counter")
          .contains("# HELP flexkv_lookups_total Requests looked up")
          .contains("flexkv_answers 1.0")
          .contains("flexkv_lookups_total 7.0")
          .contains("flexkv_blocks{tier=\"host\"} 5.0")
          .contains("flexkv_blocks{tier=\"ssd\"} 9.0")
          .contains("flexkv_open_jobs{kind=\"load\"} 1.0")
          .contains("flexkv_dropped_blocks_total{reason=\"no_room\"} 4.0")
          .contains("flexkv_ssd_bytes_total{kind=\"read\"} 4096.0")
          .contains("flexkv_ssd_directory_serves{path=\"/d\"} 0.0")
          .contains("flexkv_engine_ready{engine=\"e1\"} 1.0")
          .contains("flexkv_copied_bytes_total{engine=\"e1\",kind=\"load\",rank=\"0\"} 64.0")
          .contains("flexkv_copy_busy_seconds_total{engine=\"e1\",kind=\"load\",rank=\"0\"} 0.5")
          .doesNotContain("saved_blocks");
    }
  }

  @Test
  void scrape_cacheThreadDoesNotAnswer_saysSo() throws Exception {
    MetricsServer.Status silent =
        () -> {
          throw new RequestException("timeout", "no answer");
        };
    try (MetricsServer server = MetricsServer.start("127.0.0.1", 0, silent)) {
      assertThat(scrape(server)).contains("flexkv_answers 0.0").doesNotContain("flexkv_lookups");
    }
  }

  @Test
  void start_portTaken_namesTheOption() throws Exception {
    try (MetricsServer first = MetricsServer.start("127.0.0.1", 0, () -> null)) {
      assertThatThrownBy(() -> MetricsServer.start("127.0.0.1", first.port(), () -> null))
          .isInstanceOf(IOException.class)
          .hasMessageContaining("py_metrics_port")
          .hasMessageContaining(Integer.toString(first.port()));
    }
  }
}
