package io.flexkv.sidecar;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.cache.EvictionSettings;
import io.flexkv.config.ConfigException;
import io.flexkv.config.Nearest;
import io.flexkv.config.Option;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import io.flexkv.protocol.RequestException;
import io.flexkv.session.CacheAgent;
import io.flexkv.transfer.MoveLimits;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What may be changed while the sidecar runs: {@code set} of the control plane. Its thread only.
 */
final class Tuning {
  private static final Logger LOG = LoggerFactory.getLogger(Tuning.class);
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final List<Option> LIVE = Options.ALL.stream().filter(Option::live).toList();

  private static final double BYTES_PER_GB = 1e9;

  /** Takes a change to the cache thread. */
  @FunctionalInterface
  interface CacheThread {
    void change(Consumer<CacheAgent> change) throws RequestException;
  }

  private final CacheThread cacheThread;
  private final PoolResizing pool;
  private final SsdResizing ssd;
  private final MoveLimits limits;
  private final Settings atStart;
  private Settings settings;

  /** Sets the limits at once; eviction settings are the caller's to set, before anything runs. */
  Tuning(
      Settings settings,
      CacheThread cacheThread,
      PoolResizing pool,
      SsdResizing ssd,
      MoveLimits limits) {
    this.atStart = settings;
    this.settings = settings;
    this.cacheThread = cacheThread;
    this.pool = pool;
    this.ssd = ssd;
    this.limits = limits;
    limit(settings);
  }

  private void limit(Settings wanted) {
    limits.set(
        bytesPerSecond(wanted.number(Options.LOAD_LIMIT_GB_S)),
        bytesPerSecond(wanted.number(Options.SAVE_LIMIT_GB_S)));
  }

  /** Next to nothing is not 0, which means without a limit. */
  private static long bytesPerSecond(double gigabytes) {
    return (long) Math.ceil(gigabytes * BYTES_PER_GB);
  }

  /** The eviction that options ask for. */
  static EvictionSettings eviction(Settings settings) {
    return new EvictionSettings(
        EvictionSettings.Policy.named(settings.text(Options.EVICTION_POLICY)),
        (long) (settings.number(Options.HIT_REWARD_SECONDS) * TimeUnit.SECONDS.toNanos(1)),
        (int) settings.integer(Options.SLRU_PROTECTED_THRESHOLD),
        settings.number(Options.EVICT_START_THRESHOLD),
        settings.number(Options.EVICT_RATIO));
  }

  /** {@code set}: all of the given options or none; answers what counts now. */
  JsonNode set(JsonNode args) throws RequestException {
    Map<String, String> changes = new LinkedHashMap<>();
    args.properties().forEach(entry -> changes.put(entry.getKey(), entry.getValue().asText()));
    for (String name : changes.keySet()) {
      require(name);
    }
    Settings changed;
    try {
      changed = settings.with(changes, "");
    } catch (ConfigException e) {
      throw new RequestException("refused", String.valueOf(e.getMessage()));
    }
    apply(changed);
    limit(changed);
    LogSetup.setLevel(changed.text(Options.LOG_LEVEL));
    settings = changed;
    LOG.info("changed by a client: {}", changes);
    ObjectNode now = JSON.createObjectNode();
    LIVE.forEach(option -> now.put(option.name(), changed.text(option)));
    return now;
  }

  private static void require(String name) throws RequestException {
    List<String> live = LIVE.stream().map(Option::name).toList();
    if (live.contains(name)) {
      return;
    }
    boolean known = Options.ALL.stream().anyMatch(option -> option.name().equals(name));
    String why =
        known
            ? name + " cannot be changed while the sidecar runs"
            : "'" + name + "' is no option" + Nearest.words(name, live);
    throw new RequestException("refused", why + "; can be changed: " + String.join(", ", live));
  }

  /** What belongs to the cache thread, all of it or nothing. */
  private void apply(Settings changed) throws RequestException {
    List<Consumer<CacheAgent>> changes = new ArrayList<>();
    EvictionSettings eviction = eviction(changed);
    if (!eviction.equals(eviction(settings))) {
      changes.add(agent -> agent.setEviction(eviction));
    }
    long recompute = changed.integer(Options.SSD_RECOMPUTE_TOKENS_S);
    if (recompute != settings.integer(Options.SSD_RECOMPUTE_TOKENS_S)) {
      changes.add(agent -> agent.setRecompute(recompute));
    }
    boolean host = changed.hostBytes() != settings.hostBytes();
    long ssdBytes = changed.bytes(Options.SSD_CACHE_GB);
    boolean disks = ssdBytes != settings.bytes(Options.SSD_CACHE_GB);
    if (disks) {
      ssd.prepare(ssdBytes);
      changes.add(agent -> agent.resizeSsd(ssdBytes));
    }
    try {
      applyWithHost(changed.hostBytes(), host, changes);
    } finally {
      if (disks) {
        ssd.over();
      }
    }
  }

  private void applyWithHost(long bytes, boolean other, List<Consumer<CacheAgent>> changes)
      throws RequestException {
    if (other) {
      long capacity = pool.prepare(bytes);
      changes.add(agent -> agent.resizeHost(capacity));
    }
    try {
      if (!changes.isEmpty()) {
        cacheThread.change(agent -> changes.forEach(change -> change.accept(agent)));
      }
    } finally {
      if (other) {
        pool.changed();
      }
    }
  }

  /**
   * {@code settings}: what counts now, so that an engine that joins can compare; and what counted
   * at the start, since what was changed by hand is no contradiction to what the engine was given.
   */
  JsonNode effective() {
    ObjectNode now = JSON.createObjectNode();
    settings.effective().forEach(now::put);
    ObjectNode then = now.putObject("at_start");
    for (Option option : LIVE) {
      if (!atStart.text(option).equals(settings.text(option))) {
        then.put(option.name(), atStart.text(option));
      }
    }
    return now;
  }
}
