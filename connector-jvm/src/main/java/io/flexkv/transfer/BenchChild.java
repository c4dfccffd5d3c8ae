package io.flexkv.transfer;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.Writer;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** A Python child that plays the engine in a bench or self test; a line for each command. */
final class BenchChild implements AutoCloseable {
  private final Process process;
  private final BufferedReader answers;
  private final Writer commands;

  /**
   * @param script a resource of this package
   */
  BenchChild(String script, String... arguments) throws IOException {
    List<String> command = new ArrayList<>(List.of("python3", "-c", resource(script)));
    command.addAll(List.of(arguments));
    this.process =
        new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    this.answers = process.inputReader();
    this.commands = process.outputWriter();
  }

  private static String resource(String name) throws IOException {
    try (@Nullable InputStream in = BenchChild.class.getResourceAsStream(name)) {
      if (in == null) {
        throw new IOException("resource " + name + " is not in the jar");
      }
      return new String(in.readAllBytes(), java.nio.charset.StandardCharsets.UTF_8);
    }
  }

  int pid() {
    return Math.toIntExact(process.pid());
  }

  /** The next answer. */
  String answer() throws IOException {
    String line = answers.readLine();
    if (line == null) {
      throw new IOException("the child ended without an answer");
    }
    return line;
  }

  /** Sends a command and waits for its answer. */
  void run(String command) throws IOException {
    commands.write(command + "\n");
    commands.flush();
    String line = answer();
    if (!line.equals("done")) {
      throw new IOException("child: %s answered %s".formatted(command, line));
    }
  }

  @Override
  public void close() {
    process.destroyForcibly();
    Process ended = process.onExit().join();
    if (ended.isAlive()) {
      throw new IllegalStateException("child " + ended.pid() + " survived its kill");
    }
  }
}
