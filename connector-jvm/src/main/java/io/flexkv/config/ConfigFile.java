package io.flexkv.config;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Reads options from a file: YAML, or JSON with {@code //} and block comments; {@code ${NAME}} is
 * replaced from the environment.
 */
final class ConfigFile {
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

  private ConfigFile() {}

  /** The options of a file by name, as text. */
  static Map<String, String> read(Path path, Map<String, String> env) throws ConfigException {
    String name = path.toString().toLowerCase(Locale.ROOT);
    boolean json = name.endsWith(".json");
    if (!json && !name.endsWith(".yaml") && !name.endsWith(".yml")) {
      throw new ConfigException(
          "%s is %s, must end in .json, .yaml or .yml".formatted(Options.CONFIG_PATH_ENV, path));
    }
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
    String text = substitute(new String(bytes, StandardCharsets.UTF_8), env);
    return options(parse(json ? JSON : YAML, text, path.toString()), path.toString());
  }

  /** The options of a JSON object given as text, e.g. in the environment. */
  static Map<String, String> overrides(String text) throws ConfigException {
    return options(parse(JSON, text, Options.OVERRIDES_ENV), Options.OVERRIDES_ENV);
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

  private static Map<String, String> options(JsonNode root, String source) throws ConfigException {
    Map<String, String> found = new LinkedHashMap<>();
    if (root == null || root.isNull() || root.isMissingNode()) {
      return found;
    }
    if (!root.isObject()) {
      throw new ConfigException(source + " holds no mapping of options");
    }
    for (String section : Options.SECTIONS) {
      if (root.path(section).isObject()) {
        collect(root.path(section), source + " " + section, found);
      }
    }
    collect(root, source, found);
    return found;
  }

  private static void collect(JsonNode object, String source, Map<String, String> found)
      throws ConfigException {
    for (Map.Entry<String, JsonNode> entry : object.properties()) {
      String key = Options.ALIASES.getOrDefault(entry.getKey(), entry.getKey());
      JsonNode value = entry.getValue();
      if (value.isObject() && Options.SECTIONS.contains(key)) {
        continue;
      }
      if (!Options.BY_NAME.containsKey(key)) {
        throw new ConfigException(
            "%s has an unknown option '%s'; did you mean '%s'?"
                .formatted(source, key, Nearest.of(key, Options.BY_NAME.keySet())));
      }
      if (value.isContainerNode()) {
        throw new ConfigException(
            "%s %s must be one value, is %s"
                .formatted(source, key, value.isArray() ? "a list" : "a mapping"));
      }
      if (!value.isNull()) {
        found.put(key, value.asText());
      }
    }
  }
}
