package io.flexkv.admin;

import com.fasterxml.jackson.databind.JsonNode;
import io.flexkv.protocol.RequestException;
import io.prometheus.metrics.exporter.httpserver.HTTPServer;
import io.prometheus.metrics.model.registry.MultiCollector;
import io.prometheus.metrics.model.registry.PrometheusRegistry;
import io.prometheus.metrics.model.snapshots.MetricSnapshots;
import java.io.IOException;
import java.net.InetAddress;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The Prometheus endpoint {@code /metrics}. Each scrape asks for one status, which the cache thread
 * builds in some 100 us; where it does not answer in time, the scrape says just that. Threads of
 * the HTTP server.
 */
public final class MetricsServer implements AutoCloseable {
  private static final Logger LOG = LoggerFactory.getLogger(MetricsServer.class);

  /** Gives the status; has a time limit of its own. */
  @FunctionalInterface
  public interface Status {
    JsonNode get() throws RequestException;
  }

  private final HTTPServer server;

  private MetricsServer(HTTPServer server) {
    this.server = server;
  }

  /**
   * Listens.
   *
   * @param host an address of this machine
   * @param port 0 = any free one
   * @throws IOException if the address cannot be had; the text says what to do
   */
  public static MetricsServer start(String host, int port, Status status) throws IOException {
    PrometheusRegistry registry = new PrometheusRegistry();
    registry.register((MultiCollector) () -> collect(status));
    try {
      HTTPServer server =
          HTTPServer.builder()
              .inetAddress(InetAddress.getByName(host))
              .port(port)
              .registry(registry)
              .buildAndStart();
      LOG.info("metrics: http://{}:{}/metrics", host, server.getPort());
      return new MetricsServer(server);
    } catch (IOException e) {
      throw new IOException(
          "no metrics at %s:%d (%s): choose another py_metrics_port or metrics_host"
              .formatted(host, port, e.getMessage()),
          e);
    }
  }

  private static MetricSnapshots collect(Status status) {
    try {
      return StatusMetrics.of(status.get());
    } catch (RequestException e) {
      LOG.debug("no status for a scrape: {}", e.getMessage());
      return StatusMetrics.silent();
    }
  }

  /** Where it listens. */
  public int port() {
    return server.getPort();
  }

  @Override
  public void close() {
    server.close();
  }
}
