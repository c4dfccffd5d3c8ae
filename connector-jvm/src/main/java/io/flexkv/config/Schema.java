package io.flexkv.config;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/** Reads {@code options.json}, the one table of options that both sides share. */
final class Schema {
  private static final String RESOURCE = "options.json";

  private Schema() {}

  /** Every option, in the order of the table. */
  static List<Option> read() {
    try (InputStream in = Schema.class.getResourceAsStream(RESOURCE)) {
      if (in == null) {
        throw new IllegalStateException(RESOURCE + " is not in the jar: it was built wrongly");
      }
      List<Option> found = new ArrayList<>();
      for (JsonNode section : new ObjectMapper().readTree(in).path("sections")) {
        for (JsonNode row : section.path("options")) {
          if (!row.path("quiet").asBoolean()) {
            found.add(option(row));
          }
        }
      }
      return List.copyOf(found);
    } catch (IOException e) {
      throw new UncheckedIOException(RESOURCE + " cannot be read", e);
    }
  }

  private static Option option(JsonNode row) {
    String name = row.path("name").asText();
    return new Option(
        name,
        row.path("env").asText("FLEXKV_" + name.toUpperCase(Locale.ROOT)),
        texts(row, "aliases"),
        texts(row, "env_aliases"),
        Option.Type.valueOf(upper(row, "type")),
        Option.Side.valueOf(upper(row, "side")),
        Option.Status.valueOf(upper(row, "status")),
        row.path("default").asText(""),
        row.path("least").asDouble(),
        row.path("most").asDouble(),
        texts(row, "choices"),
        row.path("allowed").asText(""),
        texts(row, "neutral"),
        row.path("doc").asText(""),
        row.path("says").asText(""),
        row.path("secret").asBoolean(),
        row.path("file_replaces_env").asBoolean(),
        row.path("live").asBoolean());
  }

  private static String upper(JsonNode row, String field) {
    return row.path(field).asText().toUpperCase(Locale.ROOT);
  }

  private static List<String> texts(JsonNode row, String field) {
    List<String> found = new ArrayList<>();
    row.path(field).forEach(text -> found.add(text.asText()));
    return List.copyOf(found);
  }
}
