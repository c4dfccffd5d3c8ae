package io.flexkv.config;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * The options of one start, checked, each with its source. Sources from below: defaults, {@code
 * FLEXKV_*} environment, the file at {@code FLEXKV_CONFIG_PATH} (which replaces the environment's
 * form, and that of capacities even where it is silent on them), {@code FLEXKV_OVERRIDES}, command
 * line. The engine's options are left to the engine's side.
 */
public final class Settings {
  private static final Pattern KUBERNETES =
      Pattern.compile(".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\\d+_(TCP|UDP)(_.*)?)?)");

  private final Map<String, String> values;
  private final Map<String, String> sources;
  private final List<Note> notes;

  private Settings(Map<String, String> values, Map<String, String> sources, List<Note> notes) {
    this.values = values;
    this.sources = sources;
    this.notes = List.copyOf(notes);
  }

  /**
   * Reads every source.
   *
   * @param env the environment
   * @param commandLine options by name, as text
   * @throws ConfigException with all that is wrong, or the first of it if a file can be checked
   */
  public static Settings load(Map<String, String> env, Map<String, String> commandLine)
      throws ConfigException {
    return new Loading(env, commandLine).settings();
  }

  /** One reading of all sources. */
  private static final class Loading {
    private final Map<String, String> env;
    private final Map<String, String> commandLine;
    private final String path;
    private final ConfigFile file;
    private final ConfigFile overrides;
    private final List<Note> notes = new ArrayList<>();

    Loading(Map<String, String> env, Map<String, String> commandLine) throws ConfigException {
      this.env = env;
      this.commandLine = commandLine;
      path = env.getOrDefault(Options.CONFIG_PATH_ENV, "").strip();
      file = path.isEmpty() ? ConfigFile.none() : ConfigFile.read(Path.of(path), env);
      String text = env.getOrDefault(Options.OVERRIDES_ENV, "").strip();
      overrides = text.isEmpty() ? ConfigFile.none() : ConfigFile.overrides(text);
    }

    Settings settings() throws ConfigException {
      Map<String, String> values = new LinkedHashMap<>();
      Map<String, String> sources = new LinkedHashMap<>();
      Map<Note, List<String>> answers = new LinkedHashMap<>();
      List<String> wrong = new ArrayList<>();
      for (Option option : Options.ALL) {
        Found found = find(option);
        String source = found == null ? "default" : found.source();
        String raw = found == null ? option.defaultText() : found.value();
        try {
          values.put(option.name(), option.ours() ? checked(option, raw, source) : raw.strip());
        } catch (ConfigException e) {
          wrong.add(e.getMessage() + unsetIn(source, raw));
          continue;
        }
        sources.put(option.name(), source);
        if (found != null
            && option.ours()
            && option.status() != Option.Status.WORKS
            && option.asks(raw)) {
          Note answer = new Note(option.status() == Option.Status.ABSENT, option.says());
          answers.computeIfAbsent(answer, a -> new ArrayList<>()).add(source);
        }
      }
      if (!wrong.isEmpty()) {
        throw refusal(wrong, isStrict(values));
      }
      answers.forEach((answer, found) ->
          notes.add(new Note(answer.warning(), joined(found) + ": " + answer.text())));
      unknown(isStrict(values));
      file.remarks().forEach(remark -> notes.add(new Note(false, remark)));
      Settings read = new Settings(values, sources, notes);
      String folder = read.source(Options.SSD_CACHE_DIR);
      if (!folder.equals("default") && !read.hasSsdSize() && !read.ssdIsSwitchedOff()) {
        notes.add(
            new Note(
                true,
                folder
                    + " without ssd_cache_gb makes no SSD tier: give its size too"
                    + " (FLEXKV_SSD_CACHE_GB)"));
      }
      return new Settings(values, sources, notes);
    }

    /** In one text; where a source is of the same place as the last, its name alone. */
    private static String joined(List<String> sources) {
      StringBuilder text = new StringBuilder();
      String place = "";
      for (String source : sources) {
        int space = source.lastIndexOf(' ');
        String where = space < 0 ? "" : source.substring(0, space);
        text.append(text.isEmpty() ? "" : ", ");
        text.append(!where.isEmpty() && where.equals(place) ? source.substring(space + 1) : source);
        place = where;
      }
      return text.toString();
    }

    private record Found(String source, String value) {}

    private @Nullable Found find(Option option) {
      String name = option.name();
      String given = commandLine.get(name);
      if (given != null) {
        return new Found("--" + name.replace('_', '-'), given);
      }
      given = overrides.values().get(name);
      if (given != null) {
        return new Found(overrides.source(name), given);
      }
      given = file.values().get(name);
      if (given != null) {
        return new Found(path + " " + name, given);
      }
      for (String variable : option.envs()) {
        String value = env.getOrDefault(variable, "");
        if (value.isBlank()) {
          continue;
        }
        if (path.isEmpty() || !option.fileReplacesEnv()) {
          return new Found(variable, value);
        }
        notes.add(
            new Note(
                true,
                "%s does not count: %s replaces it, say %s there".formatted(variable, path, name)));
        return null;
      }
      return null;
    }

    private static String checked(Option option, String value, String source)
        throws ConfigException {
      String normal = option.normal(value);
      if (normal == null) {
        throw new ConfigException(
            "%s is '%s', must be %s".formatted(source, option.shown(value), option.allowed()));
      }
      return normal;
    }

    /** What a file's value lacks if a variable in it has no value; empty if that is not it. */
    private String unsetIn(String source, String raw) {
      List<String> names =
          file.unset().keySet().stream()
              .filter(name -> source.startsWith(path + " ") && raw.contains("${" + name + "}"))
              .toList();
      String verb = names.size() == 1 ? "is" : "are";
      return names.isEmpty()
          ? ""
          : " (%s %s not in the environment)".formatted(String.join(" and ", names), verb);
    }

    /**
     * With a file: the first thing that is wrong, and how many more; else all. What FlexKV does not
     * know is wrong only with {@code strict}; else it is counted by itself.
     */
    private ConfigException refusal(List<String> wrong, boolean strict) {
      List<String> odd = odd(String.join("", wrong));
      if (path.isEmpty()) {
        return new ConfigException(
            Stream.concat(wrong.stream(), odd.stream()).collect(Collectors.joining("; ")));
      }
      String more = more(wrong.size() - 1 + (strict ? odd.size() : 0), strict ? 0 : odd.size());
      return new ConfigException(
          more.isEmpty()
              ? wrong.getFirst()
              : "%s (%s: flexkv config check %s lists all)"
                  .formatted(wrong.getFirst(), more, path));
    }

    /** How much there is beside what is said; empty if nothing. */
    private static String more(int wrong, int warnings) {
      List<String> found = new ArrayList<>();
      if (wrong > 0) {
        found.add("%d more %s wrong".formatted(wrong, wrong == 1 ? "thing is" : "things are"));
      }
      if (warnings > 0) {
        found.add("%d %s".formatted(warnings, warnings == 1 ? "warning" : "warnings"));
      }
      return String.join(" and ", found);
    }

    /** Sentences on keys and variables that mean nothing, less variables that are said. */
    private List<String> odd(String said) {
      List<String> found = new ArrayList<>(overrides.unknown());
      found.addAll(file.unknown());
      file.unset()
          .forEach((name, text) -> {
            if (!said.contains("${" + name + "}")) {
              found.add(text);
            }
          });
      found.addAll(unknownVariables(env));
      return found;
    }

    private static boolean isStrict(Map<String, String> values) {
      return "1".equals(values.get(Options.STRICT.name()));
    }

    private void unknown(boolean strict) throws ConfigException {
      List<String> found = odd("");
      if (strict && !found.isEmpty()) {
        throw new ConfigException(String.join("; ", found) + " (strict is on)");
      }
      found.forEach(text -> notes.add(new Note(true, text)));
    }
  }

  private static List<String> unknownVariables(Map<String, String> env) {
    List<String> found = new ArrayList<>();
    for (String name : new TreeMap<>(env).keySet()) {
      boolean known =
          name.equals(Options.CONFIG_PATH_ENV)
              || name.equals(Options.OVERRIDES_ENV)
              || Options.ALL.stream().anyMatch(option -> option.envs().contains(name));
      // A service called flexkv gives every pod variables like these.
      boolean kubernetes =
          env.containsKey("KUBERNETES_SERVICE_HOST") && KUBERNETES.matcher(name).matches();
      if (name.startsWith("FLEXKV_") && !known && !kubernetes) {
        String key = name.substring("FLEXKV_".length()).toLowerCase(Locale.ROOT);
        found.add("the environment has an unknown %s%s".formatted(name, Nearest.variable(key)));
      }
    }
    return found;
  }

  /**
   * These settings with some options changed.
   *
   * @param changes values as text, by option name
   * @param source where they come from, for messages; empty where their reader knows
   */
  public Settings with(Map<String, String> changes, String source) throws ConfigException {
    Map<String, String> changed = new LinkedHashMap<>(values);
    Map<String, String> from = new LinkedHashMap<>(sources);
    for (Map.Entry<String, String> change : changes.entrySet()) {
      Option option = Options.BY_NAME.get(change.getKey());
      if (option == null) {
        throw new ConfigException(
            "%s has an unknown key '%s'%s"
                .formatted(source, change.getKey(), Nearest.key(change.getKey())));
      }
      String where = (source + " " + option.name()).strip();
      changed.put(option.name(), Loading.checked(option, change.getValue(), where));
      from.put(option.name(), where);
    }
    return new Settings(changed, from, List.of());
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

  public boolean flag(Option option) {
    return text(option).equals("1");
  }

  /** The folders of an option of type {@link Option.Type#PATHS}, as they were written. */
  public List<String> paths(Option option) {
    return Option.paths(text(option));
  }

  /** Seconds as nanoseconds. */
  public long nanos(Option option) {
    return (long) (number(option) * 1e9);
  }

  /** GB as bytes. */
  public long bytes(Option option) {
    return (long) (number(option) * 1e9);
  }

  /** Where a value came from. */
  public String source(Option option) {
    return sources.getOrDefault(option.name(), "default");
  }

  /** The rendezvous socket. */
  public Path socketPath() {
    return Path.of(text(Options.SERVER_RECV_PORT).substring("ipc://".length()));
  }

  /** Bytes of the host tier. */
  public long hostBytes() {
    return bytes(Options.CPU_CACHE_GB);
  }

  /**
   * Whether an SSD tier is asked for: it has a size, in GB or in blocks, and {@code enable_ssd}
   * does not say no.
   */
  public boolean wantsSsd() {
    return hasSsdSize() && !ssdIsSwitchedOff();
  }

  private boolean hasSsdSize() {
    return number(Options.SSD_CACHE_GB) > 0 || integer(Options.NUM_SSD_BLOCKS) > 0;
  }

  private boolean ssdIsSwitchedOff() {
    String enabled = text(Options.ENABLE_SSD);
    return enabled.equals("0") || enabled.equals("false");
  }

  /** What the user should read once. */
  public List<Note> notes() {
    return notes;
  }

  /** Every option of the sidecar that does something, by name, as text; no secrets. */
  public Map<String, String> effective() {
    Map<String, String> effective = new LinkedHashMap<>();
    for (Option option : Options.ALL) {
      if (option.ours() && option.status() == Option.Status.WORKS && !option.secret()) {
        effective.put(option.name(), text(option));
      }
    }
    return effective;
  }

  /** What is not at its default, for the log. */
  public Map<String, String> changed() {
    Map<String, String> changed = new LinkedHashMap<>();
    for (Option option : Options.ALL) {
      if (option.ours()
          && option.status() == Option.Status.WORKS
          && !source(option).equals("default")) {
        changed.put(option.name(), option.shown(text(option)) + " (" + source(option) + ")");
      }
    }
    return changed;
  }
}
