package io.flexkv.config;

import io.flexkv.config.Option.Side;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Collectors;

/** The table of all options. {@code docs/configuration.md} is printed from it. */
public final class Options {
  public static final String CONFIG_PATH_ENV = "FLEXKV_CONFIG_PATH";

  /** A JSON object of options, set by whoever starts a sidecar: above file and environment. */
  public static final String OVERRIDES_ENV = "FLEXKV_OVERRIDES";

  private static final double YEAR_S = 86_400.0 * 365;

  public static final Option CPU_CACHE_GB =
      number(
          "cpu_cache_gb",
          "4",
          "GB (10^9 bytes) from 0.01 to 1048576",
          0.01,
          1 << 20,
          "size of the host tier; never more memory than this is taken for blocks");
  public static final Option NUM_CPU_BLOCKS =
      integer(
          "num_cpu_blocks",
          "0",
          "blocks, 0 = as many as `cpu_cache_gb` holds",
          0,
          1L << 31,
          "caps the number of blocks in the host tier, besides `cpu_cache_gb`");
  public static final Option SERVER_RECV_PORT =
      new Option(
          "server_recv_port",
          "FLEXKV_SERVER_RECV_PORT",
          Option.Type.ADDRESS,
          "ipc:///tmp/flexkv_server",
          "`ipc://` and an absolute path of at most 107 bytes",
          0,
          0,
          Side.BOTH,
          "where engines and sidecar meet: a Unix socket of the user's own");
  public static final Option IDLE_EXIT_S =
      new Option(
          "idle_exit_s",
          "FLEXKV_IDLE_EXIT_S",
          Option.Type.NUMBER,
          "60",
          "seconds, 0 = never",
          0,
          YEAR_S,
          Side.BOTH,
          "a sidecar that an engine started ends when its last client has been gone for so long");
  public static final Option LOG_LEVEL =
      new Option(
          "log_level",
          "FLEXKV_LOG_LEVEL",
          Option.Type.CHOICE,
          "INFO",
          "DEBUG, INFO, WARNING, ERROR, CRITICAL or OFF",
          0,
          0,
          Side.BOTH,
          "what is logged");
  public static final Option RUNTIME_DIR =
      new Option(
          "runtime_dir",
          "FLEXKV_RUNTIME_DIR",
          Option.Type.TEXT,
          "",
          "a folder of your own; empty: `/tmp/flexkv-<uid>`",
          0,
          0,
          Side.BOTH,
          "where a sidecar keeps its log");
  public static final Option LOG_FILE =
      text(
          "log_file",
          "",
          "a path; empty: `sidecar-<address digest>.log` in `runtime_dir`",
          "the sidecar's log, mode 0600, rotated");
  public static final Option LOG_MAX_MB =
      integer(
          "log_max_mb",
          "16",
          "MB from 1 to 4096",
          1,
          4096,
          "size at which the log is rotated; one older file is kept");
  public static final Option SPIN_US =
      integer(
          "spin_us",
          "50",
          "microseconds from 0 to 100000",
          0,
          100_000,
          "how long the cache thread spins after work before it sleeps");
  public static final Option LEASE_TTL_S =
      number(
          "lease_ttl_s",
          "30",
          "seconds from 1 to 3600",
          1,
          3600,
          "how long what a lookup promised is kept for a request that does not ask again");
  public static final Option PLAN_TTL_S =
      number(
          "plan_ttl_s",
          "60",
          "seconds from 1 to 3600",
          1,
          3600,
          "how long a plan waits for the go of every rank, and a go for its plan");
  public static final Option MAX_SESSIONS =
      integer(
          "max_sessions", "256", "sessions from 1 to 4096", 1, 4096, "clients at the same time");
  public static final Option PREFAULT_THREADS =
      integer(
          "prefault_threads",
          "2",
          "threads from 0 to 64, 0 = pages come on first use",
          0,
          64,
          "how many threads give the host tier its pages at the start, while it serves already");

  /** Every option, in the order in which they are documented. */
  public static final List<Option> ALL =
      List.of(
          CPU_CACHE_GB,
          NUM_CPU_BLOCKS,
          SERVER_RECV_PORT,
          IDLE_EXIT_S,
          LOG_LEVEL,
          RUNTIME_DIR,
          LOG_FILE,
          LOG_MAX_MB,
          SPIN_US,
          LEASE_TTL_S,
          PLAN_TTL_S,
          MAX_SESSIONS,
          PREFAULT_THREADS,
          engine("enabled", "ENABLE_FLEXKV", "1", "0 or 1", "0 turns FlexKV off"),
          engine(
              "server_launch_mode",
              "FLEXKV_SERVER_LAUNCH_MODE",
              "embedded",
              "embedded or external",
              "embedded: whoever finds no sidecar starts one; external: only connect"),
          engine(
              "instance_num",
              "FLEXKV_INSTANCE_NUM",
              "1",
              "1 to 1024",
              "engines on this host that share the sidecar"),
          engine(
              "instance_id", "FLEXKV_INSTANCE_ID", "0", "0 to 1023", "which of them this one is"),
          engine(
              "lookup_spin_us",
              "FLEXKV_LOOKUP_SPIN_US",
              "50",
              "microseconds from 0 to 1000",
              "how long one lookup waits for its answer"),
          engine(
              "step_spin_us",
              "FLEXKV_STEP_SPIN_US",
              "1000",
              "microseconds from 0 to 10000",
              "how long all lookups of one scheduling step wait"),
          engine(
              "load_deadline_ms",
              "FLEXKV_LOAD_DEADLINE_MS",
              "10000",
              "milliseconds from 1 to 600000",
              "a load that takes longer is revoked and recomputed"),
          engine(
              "drain_timeout_ms",
              "FLEXKV_DRAIN_TIMEOUT_MS",
              "5000",
              "milliseconds from 1 to 60000",
              "a revoked load that lasts longer costs the sidecar its life"),
          engine(
              "start_timeout_s",
              "FLEXKV_START_TIMEOUT_S",
              "60",
              "seconds from 1 to 3600",
              "how long a started sidecar may take to answer"),
          engine("java", "FLEXKV_JAVA", "", "path of a Java 25 or newer", "the Java to run"),
          engine(
              "java_home",
              "FLEXKV_JAVA_HOME",
              "",
              "home of a Java 25 or newer",
              "the Java to run, by its home"),
          engine("jar", "FLEXKV_JAR", "", "path of the sidecar's jar", "for development"),
          engine(
              "rings",
              "FLEXKV_RINGS",
              "1",
              "0 or 1",
              "0: records travel as messages, as on machines other than x86-64"),
          engine(
              "load_failure_policy",
              "FLEXKV_LOAD_FAILURE_POLICY",
              "recompute",
              "recompute or fail",
              "what vLLM does after a failed load"),
          engine(
              "weights_version",
              "FLEXKV_WEIGHTS_VERSION",
              "",
              "any text",
              "part of the model identity: change it when weights change in place"),
          engine(
              "plugin_replace",
              "FLEXKV_PLUGIN_REPLACE",
              "1",
              "0 or 1",
              "1: our class takes the place of vLLM's in-tree FlexKVConnectorV1"),
          engine(
              "set_hash_seed",
              "FLEXKV_SET_HASH_SEED",
              "1",
              "0 or 1",
              "1: block hashes get a fixed seed where the user set none"));

  /** Other spellings in files. */
  static final Map<String, String> ALIASES =
      Map.of("enable_flexkv", "enabled", "enable", "enabled");

  /** Sections of a file whose keys count as if they stood at its top. */
  static final List<String> SECTIONS =
      List.of("cache_config", "CacheConfig", "model_config", "ModelConfig");

  static final Map<String, Option> BY_NAME =
      ALL.stream().collect(Collectors.toMap(Option::name, Function.identity()));

  private Options() {}

  private static String env(String name) {
    return "FLEXKV_" + name.toUpperCase(java.util.Locale.ROOT);
  }

  private static Option number(
      String name, String value, String allowed, double least, double most, String doc) {
    return new Option(
        name, env(name), Option.Type.NUMBER, value, allowed, least, most, Side.SIDECAR, doc);
  }

  private static Option integer(
      String name, String value, String allowed, double least, double most, String doc) {
    return new Option(
        name, env(name), Option.Type.INTEGER, value, allowed, least, most, Side.SIDECAR, doc);
  }

  private static Option text(String name, String value, String allowed, String doc) {
    return new Option(name, env(name), Option.Type.TEXT, value, allowed, 0, 0, Side.SIDECAR, doc);
  }

  private static Option engine(String name, String env, String value, String allowed, String doc) {
    return new Option(name, env, Option.Type.TEXT, value, allowed, 0, 0, Side.ENGINE, doc);
  }
}
