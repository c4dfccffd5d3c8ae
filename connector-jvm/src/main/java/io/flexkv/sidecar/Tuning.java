package io.flexkv.sidecar;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.cache.EvictionSettings;
import io.flexkv.config.ConfigException;
import io.flexkv.config.Option;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import io.flexkv.protocol.RequestException;
import io.flexkv.transfer.MoveLimits;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What may be changed while the sidecar runs: {@code set} of the control plane. Its thread only.
 */
final class Tuning {
  private static final Logger LOG = LoggerFactory.getLogger(Tuning.class);
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final List<Option> EVICTION =
      List.of(
          Options.EVICTION_POLICY,
          Options.EVICT_RATIO,
          Options.EVICT_START_THRESHOLD,
          Options.HIT_REWARD_SECONDS,
          Options.SLRU_PROTECTED_THRESHOLD);

  private static final List<Option> LIMITS =
      List.of(Options.LOAD_LIMIT_GB_S, Options.SAVE_LIMIT_GB_S);
  private static final List<Option> CHANGEABLE = changeable();
  private static final double BYTES_PER_GB = 1e9;

  /** Takes eviction settings to the cache thread. */
  @FunctionalInterface
  interface EvictionSink {
    void accept(EvictionSettings eviction) throws RequestException;
  }

  private final EvictionSink sink;
  private final MoveLimits limits;
  private Settings settings;

  /** Sets the limits at once; eviction settings are the caller's to set, before anything runs. */
  Tuning(Settings settings, EvictionSink sink, MoveLimits limits) {
    this.settings = settings;
    this.sink = sink;
    this.limits = limits;
    limit(settings);
  }

  private static List<Option> changeable() {
    List<Option> all = new ArrayList<>(EVICTION);
    all.addAll(LIMITS);
    return List.copyOf(all);
  }

  private void limit(Settings wanted) {
    limits.set(
        (long) (wanted.number(Options.LOAD_LIMIT_GB_S) * BYTES_PER_GB),
        (long) (wanted.number(Options.SAVE_LIMIT_GB_S) * BYTES_PER_GB));
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
    Settings changed;
    try {
      changed = settings.with(changes, "set");
    } catch (ConfigException e) {
      throw new RequestException("refused", String.valueOf(e.getMessage()));
    }
    for (String name : changes.keySet()) {
      if (!name.equals(Options.LOG_LEVEL.name()) && !isOf(CHANGEABLE, name)) {
        throw new RequestException(
            "refused",
            "%s cannot be changed while the sidecar runs; log_level and %s can"
                .formatted(
                    name, String.join(", ", CHANGEABLE.stream().map(Option::name).toList())));
      }
    }
    if (changes.keySet().stream().anyMatch(name -> isOf(EVICTION, name))) {
      sink.accept(eviction(changed));
    }
    limit(changed);
    LogSetup.setLevel(changed.text(Options.LOG_LEVEL));
    settings = changed;
    LOG.info("changed by a client: {}", changes);
    ObjectNode now = JSON.createObjectNode();
    now.put(Options.LOG_LEVEL.name(), changed.text(Options.LOG_LEVEL));
    CHANGEABLE.forEach(option -> now.put(option.name(), changed.text(option)));
    return now;
  }

  /** {@code settings}: what counts now, so that an engine that joins can compare. */
  JsonNode effective() {
    ObjectNode now = JSON.createObjectNode();
    settings.effective().forEach(now::put);
    return now;
  }

  private static boolean isOf(List<Option> options, String name) {
    return options.stream().anyMatch(option -> option.name().equals(name));
  }
}
