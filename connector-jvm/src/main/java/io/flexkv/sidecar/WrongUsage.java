package io.flexkv.sidecar;

import io.flexkv.config.Nearest;
import java.util.List;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.UnmatchedArgumentException;

/** What is wrong with a command line, in one line: not the help, which is long. */
final class WrongUsage {
  private static final String HELP = "flexkv serve --help lists the options";

  private WrongUsage() {}

  /** What was seen, what was most probably meant, and where help is. */
  static String text(ParameterException error) {
    String said =
        error instanceof UnmatchedArgumentException unmatched
            ? unmatched(unmatched.getUnmatched(), error.getCommandLine().getCommandSpec())
            : String.valueOf(error.getMessage());
    return said + (said.endsWith("?") ? " " : ". Remedy: ") + HELP;
  }

  /** The first of them; what follows an unknown option is most often its value. */
  private static String unmatched(List<String> seen, CommandSpec command) {
    String first = seen.getFirst();
    if (!first.startsWith("-")) {
      return "serve takes options only, not '" + first + "'";
    }
    String name = first.split("=", 2)[0];
    List<String> known =
        command.options().stream()
            .filter(option -> !option.hidden())
            .map(OptionSpec::longestName)
            .toList();
    return "unknown option '" + name + "'" + Nearest.words(name, known);
  }
}
