package io.flexkv.sidecar;

import io.flexkv.config.Option;
import io.flexkv.config.Options;
import java.util.HashMap;
import java.util.Map;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.ISetter;
import picocli.CommandLine.Model.OptionSpec;

/** Command-line options made from the table of options: {@code cpu_cache_gb} is --cpu-cache-gb. */
final class OptionSpecs {
  private OptionSpecs() {}

  /** A command that wants the options it was given. */
  interface Configured {
    /** By option name, as text. */
    Map<String, String> given();
  }

  /** What a command was given; filled by the parser. */
  static final class Given implements Configured {
    private final Map<String, String> given = new HashMap<>();

    @Override
    public Map<String, String> given() {
      return given;
    }
  }

  static CommandSpec withOptions(Object command, Configured target) {
    CommandSpec spec = CommandSpec.forAnnotatedObject(command);
    for (Option option : Options.ALL) {
      if (option.side() == Option.Side.ENGINE) {
        continue;
      }
      boolean hidden = option.status() != Option.Status.WORKS;
      ISetter setter =
          new ISetter() {
            @Override
            @SuppressWarnings({"unchecked", "TypeParameterUnusedInFormals"})
            public <T> T set(T value) {
              if (value != null) {
                target.given().put(option.name(), value.toString());
              }
              return value;
            }
          };
      spec.addOption(
          OptionSpec.builder("--" + option.name().replace('_', '-'))
              .type(String.class)
              .paramLabel("VALUE")
              .hidden(hidden)
              .description(option.doc() + " (" + option.allowed() + ")")
              .setter(setter)
              .build());
    }
    return spec;
  }
}
