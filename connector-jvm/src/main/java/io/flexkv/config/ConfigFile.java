package io.flexkv.config;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeSet;
import java.util.regex.MatchResult;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What a file says: YAML, or JSON with {@code //} and block comments; {@code ${NAME}} is replaced
 * from the environment. The legacy nested form counts too. The engine's side reads the same files
 * by the same rules ({@code config_file.py}).
 */
final class ConfigFile {
  private static final String SOURCES = "sources";
  private static final int MAX_BYTES = 1024 * 1024;
  private static final Pattern VARIABLE = Pattern.compile("\\$\\{([A-Za-z_][A-Za-z0-9_]*)}");
  private static final ObjectMapper JSON =
      JsonMapper.builder(
              JsonFactory.builder()
                  .streamReadConstraints(
                      StreamReadConstraints.builder().maxNestingDepth(32).build())
                  .build())
          .enable(JsonReadFeature.ALLOW_JAVA_COMMENTS)
          .enable(JsonReadFeature.ALLOW_TRAILING_COMMA)
          .build();
  private static final ObjectMapper YAML = new YAMLMapper();

  private final String source;
  private final Map<String, String> values = new LinkedHashMap<>();
  private final Map<String, String> sources = new LinkedHashMap<>();
  private final List<String> unknown = new ArrayList<>();
  private final Map<String, String> unset = new LinkedHashMap<>();
  private final List<String> remarks = new ArrayList<>();

  private ConfigFile(String source) {
    this.source = source;
  }

  /** The values as text, by option name. */
  Map<String, String> values() {
    return values;
  }

  /** A sentence on each key that no option has. */
  List<String> unknown() {
    return unknown;
  }

  /** A sentence on each variable that it names and the environment has not, by its name. */
  Map<String, String> unset() {
    return unset;
  }

  /** Sentences on what else was odd. */
  List<String> remarks() {
    return remarks;
  }

  static ConfigFile none() {
    return new ConfigFile("");
  }

  static ConfigFile read(Path path, Map<String, String> env) throws ConfigException {
    String name = path.toString().toLowerCase(Locale.ROOT);
    boolean json = name.endsWith(".json");
    if (!json && !name.endsWith(".yaml") && !name.endsWith(".yml")) {
      throw new ConfigException(
          "%s is %s, must end in .json, .yaml or .yml".formatted(Options.CONFIG_PATH_ENV, path));
    }
    ConfigFile file = new ConfigFile(path.toString());
    String text = substitute(text(path), env);
    file.take(parse(json ? JSON : YAML, text, path.toString()));
    return file;
  }

  /**
   * The options of a JSON object given as text, e.g. in the environment. {@value #SOURCES}, if it
   * is there, maps their names to where whoever wrote the text has them from.
   */
  static ConfigFile overrides(String text) throws ConfigException {
    ConfigFile file = new ConfigFile(Options.OVERRIDES_ENV);
    JsonNode root = parse(JSON, text, Options.OVERRIDES_ENV);
    if (root instanceof ObjectNode object && object.remove(SOURCES) instanceof ObjectNode from) {
      from.properties().forEach(e -> file.sources.put(e.getKey(), e.getValue().asText()));
    }
    file.take(root);
    return file;
  }

  /** Where a value comes from. */
  String source(String name) {
    return sources.getOrDefault(name, source + " " + name);
  }

  private static String text(Path path) throws ConfigException {
    byte[] bytes;
    try (InputStream in = Files.newInputStream(path)) {
      bytes = in.readNBytes(MAX_BYTES + 1);
    } catch (IOException e) {
      throw new ConfigException(
          "%s is %s, which cannot be read: %s".formatted(Options.CONFIG_PATH_ENV, path, e));
    }
    if (bytes.length > MAX_BYTES) {
      throw new ConfigException("%s is larger than %d bytes".formatted(path, MAX_BYTES));
    }
    return new String(bytes, StandardCharsets.UTF_8);
  }

  private static JsonNode parse(ObjectMapper mapper, String text, String source)
      throws ConfigException {
    try {
      return mapper.readTree(text);
    } catch (JsonProcessingException e) {
      throw new ConfigException(source + " cannot be parsed: " + e.getOriginalMessage());
    }
  }

  private static String substitute(String text, Map<String, String> env) {
    return VARIABLE
        .matcher(text)
        .replaceAll(m -> Matcher.quoteReplacement(env.getOrDefault(m.group(1), m.group())));
  }

  private void take(JsonNode root) throws ConfigException {
    if (root == null || root.isNull() || root.isMissingNode()) {
      return;
    }
    if (!root.isObject()) {
      throw new ConfigException(source + " holds no mapping of options");
    }
    for (String section : Options.SECTIONS) {
      if (root.path(section).isObject()) {
        collect(root.path(section), section);
      }
    }
    collect(root, "");
    TreeSet<String> missing = new TreeSet<>();
    for (String value : values.values()) {
      VARIABLE.matcher(value).results().map((MatchResult m) -> m.group(1)).forEach(missing::add);
    }
    for (String name : missing) {
      unset.put(
          name,
          "%s: %s is not in the environment, so ${%s} stays as it is written: set it"
              .formatted(source, name, name));
    }
  }

  private void collect(JsonNode object, String section) throws ConfigException {
    List<String> engines = new ArrayList<>();
    String where = (source + " " + section).strip();
    for (Map.Entry<String, JsonNode> entry : object.properties()) {
      String key = entry.getKey();
      JsonNode value = entry.getValue();
      if (section.isEmpty() && value.isObject() && Options.SECTIONS.contains(key)) {
        continue;
      }
      Option option = Options.BY_KEY.get(key);
      if (option != null) {
        if (!value.isNull()) {
          values.put(option.name(), textOf(option, value, where));
        }
      } else if (Options.MODEL_SECTIONS.contains(section)) {
        engines.add(key);
      } else {
        unknown.add("%s has an unknown key '%s'%s".formatted(where, key, Nearest.key(key)));
      }
    }
    if (!engines.isEmpty()) {
      remarks.add(
          "%s: %s are read from the engine instead".formatted(where, String.join(", ", engines)));
    }
  }

  private static String textOf(Option option, JsonNode value, String where) throws ConfigException {
    if (!value.isContainerNode()) {
      return value.asText();
    }
    if (option.type() == Option.Type.ANY) {
      return value.isEmpty() ? "" : "(given)";
    }
    if (option.type() == Option.Type.PATHS && value.isArray()) {
      List<String> parts = new ArrayList<>();
      value.forEach(part -> parts.add(part.asText()));
      return String.join(";", parts);
    }
    throw new ConfigException(
        "%s %s is %s, must be %s"
            .formatted(
                where, option.name(), value.isArray() ? "a list" : "a mapping", option.allowed()));
  }
}
