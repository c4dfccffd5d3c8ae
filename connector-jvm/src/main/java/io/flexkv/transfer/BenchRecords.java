package io.flexkv.transfer;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/** The records of one bench run: each figure beside what the hardware did in the same run. */
final class BenchRecords {
  /**
   * One figure.
   *
   * @param limit what the hardware did in the same run, in the same unit; 0 = nothing to compare
   * @param ratio value to limit
   * @param bar what was asked of the ratio
   * @param met whether the ratio reaches the bar
   */
  record Entry(
      String name,
      double value,
      String unit,
      double limit,
      double ratio,
      double bar,
      boolean met,
      String command,
      String machine) {}

  private final List<Entry> records = new ArrayList<>();
  private final String command;
  private final String machine;

  BenchRecords(String command, String machine) {
    this.command = command;
    this.machine = machine;
  }

  static String machine() {
    return "%d cores, %s %s, Java %s"
        .formatted(
            Runtime.getRuntime().availableProcessors(),
            System.getProperty("os.name"),
            System.getProperty("os.version"),
            Runtime.version());
  }

  /** A figure that shall reach a share of its limit. */
  void add(String name, double value, String unit, double limit, double bar) {
    double ratio = limit == 0 ? 0 : value / limit;
    records.add(
        new Entry(
            name,
            rounded(value),
            unit,
            rounded(limit),
            rounded(ratio),
            bar,
            limit == 0 || ratio >= bar,
            command,
            machine));
  }

  /** A fact that holds or does not. */
  void check(String name, boolean holds) {
    records.add(
        new Entry(name, holds ? 1 : 0, "bool", 1, holds ? 1 : 0, 1, holds, command, machine));
  }

  /** Whether every fact of {@link #check} holds, whatever the figures are. */
  boolean checksHold() {
    return records.stream().allMatch(r -> r.met() || !r.unit().equals("bool"));
  }

  boolean allMet() {
    return records.stream().allMatch(Entry::met);
  }

  private static double rounded(double value) {
    return Math.round(value * 1000) / 1000.0;
  }

  /** A line for each record, for people. */
  String table() {
    StringBuilder text = new StringBuilder();
    for (Entry r : records) {
      text.append(
          "%-56s %10.3f %-5s limit %10.3f  ratio %6.3f  bar %5.2f  %s%n"
              .formatted(
                  r.name(),
                  r.value(),
                  r.unit(),
                  r.limit(),
                  r.ratio(),
                  r.bar(),
                  r.met() ? "met" : "NOT MET")
              .formatted(Locale.ROOT));
    }
    return text.toString();
  }

  String json() throws IOException {
    return new ObjectMapper()
        .enable(SerializationFeature.INDENT_OUTPUT)
        .writeValueAsString(records);
  }

  /** Writes the JSON list; folders are made. */
  void write(Path file) throws IOException {
    Path folder = file.toAbsolutePath().getParent();
    if (folder != null) {
      Files.createDirectories(folder);
    }
    Files.writeString(file, json() + "\n");
  }
}
