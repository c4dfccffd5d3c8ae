package io.flexkv.config;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * The options of one start, checked, each with its source. Sources from below: defaults, {@code
 * FLEXKV_*} environment, the file at {@code FLEXKV_CONFIG_PATH} (which replaces the environment's
 * form), {@code FLEXKV_OVERRIDES}, command line.
 */
public final class Settings {
  private static final int MAX_PATH_BYTES = 107;
  private static final List<String> LOG_LEVELS =
      List.of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "OFF");

  private final Map<String, String> values;
  private final Map<String, String> sources;

  private Settings(Map<String, String> values, Map<String, String> sources) {
    this.values = values;
    this.sources = sources;
  }

  /**
   * Reads every source.
   *
   * @param env the environment
   * @param commandLine options by name, as text
   * @throws ConfigException for the first thing that is wrong
   */
  public static Settings load(Map<String, String> env, Map<String, String> commandLine)
      throws ConfigException {
    String path = env.getOrDefault(Options.CONFIG_PATH_ENV, "").strip();
    Map<String, String> file = path.isEmpty() ? Map.of() : ConfigFile.read(Path.of(path), env);
    String text = env.getOrDefault(Options.OVERRIDES_ENV, "").strip();
    Map<String, String> overrides = text.isEmpty() ? Map.of() : ConfigFile.overrides(text);
    Map<String, String> values = new LinkedHashMap<>();
    Map<String, String> sources = new LinkedHashMap<>();
    for (Option option : Options.ALL) {
      String name = option.name();
      String source = "default";
      String value = option.defaultText();
      if (commandLine.containsKey(name)) {
        source = "--" + name.replace('_', '-');
        value = commandLine.get(name);
      } else if (overrides.containsKey(name)) {
        source = Options.OVERRIDES_ENV + " " + name;
        value = overrides.get(name);
      } else if (file.containsKey(name)) {
        source = path + " " + name;
        value = file.get(name);
      } else if (env.containsKey(option.env())) {
        source = option.env();
        value = env.get(option.env());
      }
      if (option.side() != Option.Side.ENGINE) {
        check(option, value.strip(), source);
      }
      values.put(name, value.strip());
      sources.put(name, source);
    }
    return new Settings(values, sources);
  }

  private static void check(Option option, String value, String source) throws ConfigException {
    boolean good =
        switch (option.type()) {
          case TEXT -> true;
          case INTEGER -> isWhole(value) && inRange(option, value);
          case NUMBER -> inRange(option, value);
          case CHOICE -> LOG_LEVELS.contains(value.toUpperCase(Locale.ROOT));
          case ADDRESS ->
              value.startsWith("ipc:///")
                  && value.indexOf('\0') < 0
                  && path(value).getBytes(StandardCharsets.UTF_8).length <= MAX_PATH_BYTES;
        };
    if (!good) {
      throw new ConfigException(
          "%s is '%s', must be %s".formatted(source, value, option.allowed()));
    }
  }

  private static boolean isWhole(String value) {
    return value.matches("-?[0-9]{1,15}");
  }

  private static boolean inRange(Option option, String value) {
    try {
      double number = Double.parseDouble(value);
      return number >= option.least() && number <= option.most();
    } catch (NumberFormatException e) {
      return false;
    }
  }

  private static String path(String address) {
    return address.substring("ipc://".length());
  }

  public String text(Option option) {
    String value = values.get(option.name());
    if (value == null) {
      throw new IllegalArgumentException(option.name());
    }
    return value;
  }

  public long integer(Option option) {
    return Long.parseLong(text(option));
  }

  public double number(Option option) {
    return Double.parseDouble(text(option));
  }

  /** Seconds as nanoseconds. */
  public long nanos(Option option) {
    return (long) (number(option) * 1e9);
  }

  /** Where a value came from. */
  public String source(Option option) {
    return sources.getOrDefault(option.name(), "default");
  }

  /** The rendezvous socket. */
  public Path socketPath() {
    return Path.of(path(text(Options.SERVER_RECV_PORT)));
  }

  /** Bytes of the host tier. */
  public long hostBytes() {
    return (long) (number(Options.CPU_CACHE_GB) * 1e9);
  }

  /** What is not at its default, for the log. */
  public Map<String, String> changed() {
    Map<String, String> changed = new LinkedHashMap<>();
    for (Option option : Options.ALL) {
      if (option.side() != Option.Side.ENGINE && !source(option).equals("default")) {
        changed.put(option.name(), text(option) + " (" + source(option) + ")");
      }
    }
    return changed;
  }
}
