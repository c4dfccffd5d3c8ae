package io.flexkv.config;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Collectors;

/**
 * The options that the sidecar uses, by constant, and all by name. They are declared in {@code
 * options.json}; {@code docs/configuration.md} is printed from it.
 */
public final class Options {
  public static final String CONFIG_PATH_ENV = "FLEXKV_CONFIG_PATH";

  /** A JSON object of options, set by whoever starts a sidecar: above file and environment. */
  public static final String OVERRIDES_ENV = "FLEXKV_OVERRIDES";

  /** Every option, in the order in which they are documented. */
  public static final List<Option> ALL = Schema.read();

  static final Map<String, Option> BY_NAME =
      ALL.stream().collect(Collectors.toMap(Option::name, Function.identity()));

  /** Options by every key that a file may use for them. */
  static final Map<String, Option> BY_KEY = byKey();

  /** Sections of a file whose keys count as if they stood at its top. */
  static final List<String> SECTIONS =
      List.of("cache_config", "CacheConfig", "model_config", "ModelConfig");

  /** Of these, what an engine says itself. */
  static final List<String> MODEL_SECTIONS = List.of("model_config", "ModelConfig");

  public static final Option SERVER_RECV_PORT = option("server_recv_port");
  public static final Option IDLE_EXIT_S = option("idle_exit_s");
  public static final Option RUNTIME_DIR = option("runtime_dir");
  public static final Option MAX_SESSIONS = option("max_sessions");
  public static final Option STRICT = option("strict");

  public static final Option CPU_CACHE_GB = option("cpu_cache_gb");
  public static final Option NUM_CPU_BLOCKS = option("num_cpu_blocks");
  public static final Option PREFAULT_THREADS = option("prefault_threads");
  public static final Option NUMA_BIND = option("numa_bind");
  public static final Option USE_HUGEPAGE_CPU_BUFFER = option("use_hugepage_cpu_buffer");
  public static final Option HUGEPAGE_SIZE_BYTES = option("hugepage_size_bytes");

  public static final Option SSD_CACHE_GB = option("ssd_cache_gb");
  public static final Option NUM_SSD_BLOCKS = option("num_ssd_blocks");
  public static final Option ENABLE_SSD = option("enable_ssd");
  public static final Option SSD_CACHE_DIR = option("ssd_cache_dir");
  public static final Option SSD_WRITE_POLICY = option("ssd_write_policy");
  public static final Option SSD_WAIT_MS = option("ssd_wait_ms");
  public static final Option SSD_RECOMPUTE_TOKENS_S = option("ssd_recompute_tokens_s");
  public static final Option SSD_SCRUB_MB_S = option("ssd_scrub_mb_s");
  public static final Option IOURING_ENTRIES = option("iouring_entries");
  public static final Option IOURING_FLAGS = option("iouring_flags");
  public static final Option MAX_FILE_SIZE_GB = option("max_file_size_gb");
  public static final Option MAX_BLOCKS_PER_FILE = option("max_blocks_per_file");
  public static final Option SSD_IO_OPT = option("ssd_io_opt");
  public static final Option ENABLE_GDS = option("enable_gds");

  public static final Option EVICTION_POLICY = option("eviction_policy");
  public static final Option EVICT_RATIO = option("evict_ratio");
  public static final Option EVICT_START_THRESHOLD = option("evict_start_threshold");
  public static final Option LOAD_LIMIT_GB_S = option("load_limit_gb_s");
  public static final Option SAVE_LIMIT_GB_S = option("save_limit_gb_s");
  public static final Option GPU_COPY_PATH = option("gpu_copy_path");
  public static final Option HIT_REWARD_SECONDS = option("hit_reward_seconds");
  public static final Option SLRU_PROTECTED_THRESHOLD = option("slru_protected_threshold");

  public static final Option LOG_LEVEL = option("log_level");
  public static final Option LOG_FILE = option("log_file");
  public static final Option LOG_MAX_MB = option("log_max_mb");
  public static final Option TRANSFER_TRACE = option("transfer_trace");
  public static final Option EVICTION_LOG_INTERVAL_S = option("eviction_log_interval_s");

  public static final Option ENABLE_METRICS = option("enable_metrics");
  public static final Option METRICS_HOST = option("metrics_host");
  public static final Option METRICS_PORT = option("py_metrics_port");

  public static final Option SPIN_US = option("spin_us");
  public static final Option LEASE_TTL_S = option("lease_ttl_s");
  public static final Option PLAN_TTL_S = option("plan_ttl_s");

  private Options() {}

  private static Option option(String name) {
    Option found = BY_NAME.get(name);
    if (found == null) {
      throw new IllegalStateException("options.json has no " + name);
    }
    return found;
  }

  private static Map<String, Option> byKey() {
    Map<String, Option> keys = new HashMap<>();
    for (Option option : ALL) {
      keys.put(option.name(), option);
      option.aliases().forEach(alias -> keys.put(alias, option));
    }
    return Map.copyOf(keys);
  }
}
