package io.flexkv.sidecar;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A command line that cannot be used is answered in one line, with the way out. */
final class WrongUsageTest {
  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      textBlock =
          """
          serve --nope 3            | unknown option '--nope'. Remedy:
          serve --cpu-cach-gb 3     | unknown option '--cpu-cach-gb'; did you mean '--cpu-cache-gb'?
          start --cpu-cach-gb=3     | unknown option '--cpu-cach-gb'; did you mean '--cpu-cache-gb'?
          --cpu-cach-gb 3           | unknown option '--cpu-cach-gb'; did you mean '--cpu-cache-gb'?
          serve -x                  | unknown option '-x'. Remedy:
          serve now                 | serve takes options only, not 'now'. Remedy:
          serve --cpu-cache-gb      | Missing required parameter for option '--cpu-cache-gb' (VALUE). Remedy:
          """)
  void text_wrongUsage_isOneLineWithTheWayOut(String typed, String said) {
    StringWriter err = new StringWriter();
    int code = FlexKv.commandLine().setErr(new PrintWriter(err)).execute(typed.split(" "));
    assertThat(code).isEqualTo(FlexKv.EXIT_SETTINGS);
    assertThat(err.toString().lines())
        .containsExactly("flexkv: " + said + " flexkv serve --help lists the options");
  }
}
