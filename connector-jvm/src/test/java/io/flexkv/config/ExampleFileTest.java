package io.flexkv.config;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

/** The example that users copy says what the sidecar does; the page is held by pytest. */
class ExampleFileTest {
  private static final Path ROOT = Path.of("").toAbsolutePath().getParent();
  private static final Path EXAMPLE = ROOT.resolve("conf/flexkv.yaml");

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
}
