package io.flexkv.config;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

/** The page that users read says what the sidecar does; the shim's table is held by pytest. */
class ConfigurationPageTest {
  private static final Path ROOT = Path.of("").toAbsolutePath().getParent();
  private static final Path PAGE = ROOT.resolve("docs/configuration.md");
  private static final Path EXAMPLE = ROOT.resolve("conf/flexkv.yaml");

  @Test
  void sidecarTable_isPrintedFromTheOptions() throws IOException {
    List<String> wanted =
        Options.ALL.stream()
            .filter(option -> option.side() == Option.Side.SIDECAR)
            .map(ConfigurationPageTest::row)
            .toList();
    String page = Files.readString(PAGE);
    String table = page.substring(page.indexOf("## The sidecar's"), page.indexOf("## The shim's"));

    assertThat(table.lines().filter(line -> line.startsWith("| `")))
        .as("rows of %s; take the wanted ones over", PAGE)
        .containsExactlyElementsOf(wanted);
  }

  @Test
  void exampleFile_namesTheDefaultsOfWhatItExplains() throws IOException {
    Pattern commented = Pattern.compile("^# ([a-z_]+): (\\S+)", Pattern.MULTILINE);
    Matcher matcher = commented.matcher(Files.readString(EXAMPLE));
    int sidecars = 0;
    while (matcher.find()) {
      Option option = Options.BY_NAME.get(matcher.group(1));
      if (option != null && option.side() != Option.Side.ENGINE) {
        sidecars++;
        assertThat(matcher.group(2)).as(option.name()).isEqualTo(option.defaultText());
      }
    }
    assertThat(sidecars).isGreaterThanOrEqualTo(4);
  }

  @Test
  void shimsTable_namesEveryOptionThatTheSidecarTakesForKnown() throws IOException {
    String page = Files.readString(PAGE);
    Matcher row =
        Pattern.compile("^\\| `(\\w+)` \\| `(\\w+)`", Pattern.MULTILINE)
            .matcher(page.substring(page.indexOf("## The shim's")));
    assertThat(row.results().map(r -> r.group(1) + " " + r.group(2)))
        .containsExactlyInAnyOrderElementsOf(
            Options.ALL.stream()
                .filter(option -> option.side() != Option.Side.SIDECAR)
                .map(option -> option.name() + " " + option.env())
                .toList());
  }

  private static String row(Option option) {
    String value = option.defaultText().isEmpty() ? "empty" : "`" + option.defaultText() + "`";
    return String.format(
        "| `%s` | `%s` | %s | %s | %s |",
        option.name(), option.env(), value, option.allowed(), option.doc());
  }
}
