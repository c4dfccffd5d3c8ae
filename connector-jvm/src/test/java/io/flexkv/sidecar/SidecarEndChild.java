package io.flexkv.sidecar;

import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.LoggerContext;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.UnsynchronizedAppenderBase;
import java.util.Arrays;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.locks.LockSupport;
import org.slf4j.LoggerFactory;
import picocli.CommandLine;

/**
 * A sidecar that fails once it serves, as it does when a device is lost. Arguments: whether its
 * log's disk hangs from its end on, then those of {@code start}.
 */
public final class SidecarEndChild {
  /** How long the end of the one that hangs may take. */
  private static final long END_MILLIS = 500;

  private SidecarEndChild() {}

  public static void main(String[] args) throws Exception {
    boolean hangs = Boolean.parseBoolean(args[0]);
    ServeCommand command = hangs ? new ServeCommand(true, END_MILLIS) : new ServeCommand(true);
    CommandLine line = new CommandLine(OptionSpecs.withOptions(command, command));
    line.parseArgs(Arrays.copyOfRange(args, 1, args.length));
    CompletableFuture<Sidecar> begun = new CompletableFuture<>();
    CompletableFuture<Void> _ =
        begun.thenAccept(sidecar -> {
          if (hangs) {
            hangWithTheNextLine();
          }
          sidecar.fail("told to by the test");
        });
    System.exit(command.call(begun));
  }

  private static void hangWithTheNextLine() {
    LoggerContext context = (LoggerContext) LoggerFactory.getILoggerFactory();
    var hanging =
        new UnsynchronizedAppenderBase<ILoggingEvent>() {
          @Override
          protected void append(ILoggingEvent event) {
            while (true) {
              LockSupport.park(this);
            }
          }
        };
    hanging.setContext(context);
    hanging.start();
    context.getLogger(Logger.ROOT_LOGGER_NAME).addAppender(hanging);
  }
}
