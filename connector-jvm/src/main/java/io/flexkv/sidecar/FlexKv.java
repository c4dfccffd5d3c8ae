package io.flexkv.sidecar;

import java.io.PrintWriter;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.IVersionProvider;

/** The command line of the sidecar's jar. Without a subcommand it is {@code start}. */
@Command(
    name = "flexkv",
    mixinStandardHelpOptions = true,
    versionProvider = FlexKv.Version.class,
    description = "The sidecar of FlexKV: owns the cache, moves the blocks.")
public final class FlexKv implements Callable<Integer> {
  /** It ended, and nobody had asked for that: the log says why. */
  static final int EXIT_FAILED = 1;

  /** Somebody else serves the address. */
  static final int EXIT_OCCUPIED = 3;

  /** A setting cannot be used, or the address cannot be had. */
  static final int EXIT_SETTINGS = 2;

  static final class Version implements IVersionProvider {
    @Override
    public String[] getVersion() {
      return new String[] {"flexkv sidecar " + version()};
    }
  }

  /** The jar's version, {@code dev} outside a jar. */
  static String version() {
    String version = FlexKv.class.getPackage().getImplementationVersion();
    return version == null ? "dev" : version;
  }

  public static void main(String[] args) {
    // Until the settings say otherwise: logback's own default prints every detail.
    LogSetup.silence();
    System.exit(commandLine().execute(args));
  }

  private static int wrongUsage(CommandLine.ParameterException e, String[] args) {
    PrintWriter err = e.getCommandLine().getErr();
    err.println("flexkv: " + WrongUsage.text(e));
    err.flush();
    return EXIT_SETTINGS;
  }

  static CommandLine commandLine() {
    ServeCommand start = new ServeCommand(true);
    CommandLine root = new CommandLine(OptionSpecs.withOptions(new FlexKv(start), start));
    root.addSubcommand("serve", serve("runs in the foreground until it is stopped", false));
    root.addSubcommand("start", serve("runs until its last client has been gone a while", true));
    root.addSubcommand("status", status());
    root.addSubcommand("doctor", doctor());
    root.setParameterExceptionHandler(FlexKv::wrongUsage);
    return root;
  }

  private static CommandLine serve(String description, boolean embedded) {
    ServeCommand command = new ServeCommand(embedded);
    CommandLine line = new CommandLine(OptionSpecs.withOptions(command, command));
    line.getCommandSpec().usageMessage().description(description);
    return line;
  }

  private static CommandLine status() {
    StatusCommand command = new StatusCommand();
    CommandLine line = new CommandLine(OptionSpecs.withOptions(command, command));
    line.getCommandSpec()
        .usageMessage()
        .description("prints what a running sidecar says of itself");
    return line;
  }

  private static CommandLine doctor() {
    CommandLine line = new CommandLine(new DoctorCommand());
    line.getCommandSpec()
        .usageMessage()
        .description("reads every block of the SSD tier's folders and says which do not verify");
    return line;
  }

  private final ServeCommand start;

  private FlexKv(ServeCommand start) {
    this.start = start;
  }

  @Override
  public Integer call() throws Exception {
    return start.call();
  }
}
