package io.flexkv.sidecar;

import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.LoggerContext;
import ch.qos.logback.classic.encoder.PatternLayoutEncoder;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.ConsoleAppender;
import ch.qos.logback.core.rolling.FixedWindowRollingPolicy;
import ch.qos.logback.core.rolling.RollingFileAppender;
import ch.qos.logback.core.rolling.SizeBasedTriggeringPolicy;
import ch.qos.logback.core.util.Duration;
import ch.qos.logback.core.util.FileSize;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Locale;
import org.slf4j.LoggerFactory;

/** Logging in code: a file that only its owner reads and that cannot grow without end. */
final class LogSetup {
  private static final String FILE_PATTERN =
      "%d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX} %-5level %logger{0} [%thread] %msg%n";
  private static final String CONSOLE_PATTERN = "%d{HH:mm:ss.SSS} %-5level %logger{0} %msg%n";

  private LogSetup() {}

  /**
   * Replaces whatever logging there is.
   *
   * @param maxMegabytes size at which the file is rotated; one older file is kept
   * @param console also to stderr
   */
  static void configure(Path file, long maxMegabytes, String level, boolean console) {
    LoggerContext context = (LoggerContext) LoggerFactory.getILoggerFactory();
    context.reset();
    Logger root = context.getLogger(Logger.ROOT_LOGGER_NAME);
    root.setLevel(level(level));
    // At DEBUG the JDK logs every exit with a stack trace; that it ends, and why, we say ourselves.
    context.getLogger("java.lang.Runtime").setLevel(Level.INFO);
    root.addAppender(file(context, file, maxMegabytes));
    if (console) {
      root.addAppender(console(context));
    }
  }

  /** Changes what is logged from now on. */
  static void setLevel(String level) {
    LoggerContext context = (LoggerContext) LoggerFactory.getILoggerFactory();
    context.getLogger(Logger.ROOT_LOGGER_NAME).setLevel(level(level));
  }

  /** No logging: for commands whose output somebody reads. */
  static void silence() {
    LoggerContext context = (LoggerContext) LoggerFactory.getILoggerFactory();
    context.reset();
    context.getLogger(Logger.ROOT_LOGGER_NAME).setLevel(Level.OFF);
  }

  private static Level level(String name) {
    return switch (name.toUpperCase(Locale.ROOT)) {
      case "DEBUG" -> Level.DEBUG;
      case "WARNING" -> Level.WARN;
      case "ERROR", "CRITICAL" -> Level.ERROR;
      case "OFF" -> Level.OFF;
      default -> Level.INFO;
    };
  }

  private static PatternLayoutEncoder encoder(LoggerContext context, String pattern) {
    PatternLayoutEncoder encoder = new PatternLayoutEncoder();
    encoder.setContext(context);
    encoder.setPattern(pattern);
    encoder.start();
    return encoder;
  }

  private static RollingFileAppender<ILoggingEvent> file(
      LoggerContext context, Path file, long maxMegabytes) {
    RollingFileAppender<ILoggingEvent> appender = new PrivateFileAppender();
    appender.setContext(context);
    appender.setFile(file.toString());
    FixedWindowRollingPolicy rolling = new FixedWindowRollingPolicy();
    rolling.setContext(context);
    rolling.setParent(appender);
    rolling.setFileNamePattern(file + ".%i");
    rolling.setMinIndex(1);
    rolling.setMaxIndex(1);
    rolling.start();
    SizeBasedTriggeringPolicy<ILoggingEvent> size = new SizeBasedTriggeringPolicy<>();
    size.setContext(context);
    size.setMaxFileSize(new FileSize(maxMegabytes * FileSize.MB_COEFFICIENT));
    size.setCheckIncrement(Duration.buildByMilliseconds(500));
    size.start();
    appender.setRollingPolicy(rolling);
    appender.setTriggeringPolicy(size);
    appender.setEncoder(encoder(context, FILE_PATTERN));
    appender.start();
    return appender;
  }

  private static ConsoleAppender<ILoggingEvent> console(LoggerContext context) {
    ConsoleAppender<ILoggingEvent> appender = new ConsoleAppender<>();
    appender.setContext(context);
    appender.setTarget("System.err");
    appender.setEncoder(encoder(context, CONSOLE_PATTERN));
    appender.start();
    return appender;
  }

  /** Makes its file with mode 0600 before it is opened, at the start and after each rotation. */
  private static final class PrivateFileAppender extends RollingFileAppender<ILoggingEvent> {
    @Override
    public void openFile(String name) throws IOException {
      try {
        Files.createFile(
            Path.of(name),
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------")));
      } catch (FileAlreadyExistsException e) {
        addInfo("appending to " + name);
      }
      super.openFile(name);
    }
  }
}
