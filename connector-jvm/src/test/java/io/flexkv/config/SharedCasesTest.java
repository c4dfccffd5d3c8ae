package io.flexkv.config;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** The cases that the engine's side reads too: both must answer alike ({@code test_config.py}). */
class SharedCasesTest {
  private static final Path CASES =
      Path.of("").toAbsolutePath().getParent().resolve("python-shim/tests/config_cases.json");

  @TempDir Path folder;

  static Stream<Arguments> cases() throws IOException {
    List<Arguments> found = new ArrayList<>();
    for (JsonNode row : new ObjectMapper().readTree(Files.readString(CASES))) {
      found.add(Arguments.of(row.path("name").asText(), row));
    }
    return found.stream();
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("cases")
  void load_sharedCase_answersAsTheEnginesSide(String name, JsonNode row) throws Exception {
    Map<String, String> env = new HashMap<>();
    row.path("env").properties().forEach(e -> env.put(e.getKey(), e.getValue().asText()));
    String path = folder.resolve(row.path("file").asText("none")).toString();
    if (row.has("file")) {
      Files.writeString(Path.of(path), row.path("text").asText());
      env.put("FLEXKV_CONFIG_PATH", path);
    }
    if (row.has("error")) {
      String wanted = row.path("error").asText().replace("FILE", path);
      assertThatThrownBy(() -> Settings.load(env, Map.of()))
          .as(name)
          .isInstanceOf(ConfigException.class)
          .hasMessageContaining(wanted);
      return;
    }
    Settings settings = Settings.load(env, Map.of());
    row.path("values")
        .properties()
        .forEach(e ->
            assertThat(settings.text(option(e.getKey())))
                .as(e.getKey())
                .isEqualTo(e.getValue().asText()));
    row.path("sources")
        .properties()
        .forEach(e ->
            assertThat(settings.source(option(e.getKey())))
                .isEqualTo(e.getValue().asText().replace("FILE", path)));
    if (row.has("notes")) {
      List<String> wanted = new ArrayList<>();
      row.path("notes").forEach(note -> wanted.add(note.asText().replace("FILE", path)));
      assertThat(settings.notes().stream().map(Note::text)).containsExactlyElementsOf(wanted);
    }
  }

  private static Option option(String name) {
    Option found = Options.BY_NAME.get(name);
    if (found == null) {
      throw new AssertionError("no option " + name);
    }
    return found;
  }
}
