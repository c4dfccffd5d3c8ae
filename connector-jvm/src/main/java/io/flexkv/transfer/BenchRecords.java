package io.flexkv.transfer;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/** The records of one bench run: each figure beside what the hardware did in the same run. */
public final class BenchRecords {
  /**
   * One figure; null where there is nothing to compare with.
   *
   * @param limit what the hardware did in the same run, in the same unit
   * @param ratio value to limit
   * @param bar what was asked of the ratio
   * @param met whether the ratio reaches the bar
   */
  record Entry(
      String name,
      double value,
      String unit,
      @Nullable Double limit,
      @Nullable Double ratio,
      @Nullable Double bar,
      @Nullable Boolean met,
      String command,
      String machine) {}

  private final List<Entry> entries = new ArrayList<>();
  private final String command;
  private final String machine;

  /** No figures yet; {@code command} is what one types for them. */
  public BenchRecords(String command, String machine) {
    this.command = command;
    this.machine = machine;
  }

  /** Cores, processor and runtime: enough to know whether two figures may be compared. */
  public static String machine() {
    return "%d cores %s, %s %s, Java %s"
        .formatted(
            Runtime.getRuntime().availableProcessors(),
            processor(),
            System.getProperty("os.name"),
            kernel(System.getProperty("os.version", "")),
            Runtime.version());
  }

  /** A kernel's version without what its builder appended, which tells of a provider, not of it. */
  static String kernel(String version) {
    return version.replaceFirst("[^0-9.].*", "");
  }

  private static String processor() {
    try (Stream<String> lines = Files.lines(Path.of("/proc/cpuinfo"))) {
      return lines
          .filter(line -> line.startsWith("model name"))
          .map(line -> line.substring(line.indexOf(':') + 1).strip())
          .findFirst()
          .orElse("");
    } catch (IOException e) {
      return System.getProperty("os.arch", "");
    }
  }

  /** A figure by itself. */
  public void add(String name, double value, String unit) {
    entries.add(new Entry(name, rounded(value), unit, null, null, null, null, command, machine));
  }

  /** A figure that shall reach a share of its limit. */
  public void add(String name, double value, String unit, double limit, double bar) {
    add(name, value, unit, limit, value / limit, bar);
  }

  /** The same where the ratio is not of these two, but of what was measured side by side. */
  public void add(String name, double value, String unit, double limit, double ratio, double bar) {
    entries.add(
        new Entry(
            name,
            rounded(value),
            unit,
            rounded(limit),
            rounded(ratio),
            bar,
            ratio >= bar,
            command,
            machine));
  }

  /** A fact that holds or does not. */
  public void check(String name, boolean holds) {
    entries.add(new Entry(name, holds ? 1 : 0, "bool", null, null, 1.0, holds, command, machine));
  }

  /** Whether every fact of {@link #check} holds, whatever the figures are. */
  public boolean checksHold() {
    return entries.stream()
        .noneMatch(e -> e.unit().equals("bool") && Boolean.FALSE.equals(e.met()));
  }

  private static double rounded(double value) {
    return Math.round(value * 1000) / 1000.0;
  }

  /** The JSON list. */
  public String json() throws IOException {
    return new ObjectMapper()
        .enable(SerializationFeature.INDENT_OUTPUT)
        .writeValueAsString(entries);
  }

  /** Writes the JSON list; folders are made. */
  public void write(Path file) throws IOException {
    Path folder = file.toAbsolutePath().getParent();
    if (folder != null) {
      Files.createDirectories(folder);
    }
    Files.writeString(file, json() + "\n");
  }
}
