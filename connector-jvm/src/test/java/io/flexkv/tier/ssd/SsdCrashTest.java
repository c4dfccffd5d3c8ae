package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.transfer.BenchRecords;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Processes killed at named points and by the clock, again and again on the same directories: none
 * of their successors reads a wrong byte, and what had been stored is there.
 */
class SsdCrashTest {
  /** Kills; the long form asks for more, e.g. {@code -Dflexkv.ssd.kills=1000}. */
  private static final int KILLS = Integer.getInteger("flexkv.ssd.kills", 30);

  /** File for the records of a long run, e.g. {@code build/bench/ssd-kills.json}. */
  private static final String RECORD = System.getProperty("flexkv.ssd.record", "");

  private static final Pattern VERIFIED =
      Pattern.compile(
          "verified wanted=(\\d+) missing=(\\d+) stale=(\\d+) corrupt=(\\d+) wrong=(\\d+)");

  /** When a life is looked at: one takes 2 s on an idle machine. */
  private static final int SLOW_SECONDS = 60;

  /** What it gets from then on. */
  private static final int HUNG_SECONDS = 240;

  private static final int TELL_EVERY = 100;

  @TempDir Path folder;

  private final Random random = new Random(Long.getLong("flexkv.ssd.seed", 1));
  private long killed;
  private long slow;
  private final long[] sums = new long[5];

  @Test
  void killedAnywhere_neverWrong_nearlyNothingMissing() throws Exception {
    for (int i = 0; i < KILLS; i++) {
      life(i);
      if (i > 0 && i % TELL_EVERY == 0) {
        tell(i + 1);
      }
    }
    life(-1); // looks at what the last one left, and ends by itself
    tell(KILLS + 1);
    record();
    assertThat(sums[4]).as("wrong blocks").isZero();
    assertThat(sums[3]).as("blocks said to be corrupt").isZero();
    assertThat(killed).isGreaterThan(KILLS * 8L / 10);
    assertThat(sums[0]).isGreaterThan(10L * KILLS);
    assertThat(sums[1]).as("missing of %d", sums[0]).isLessThanOrEqualTo(sums[0] / 100);
  }

  /** Writes what a long run found, where somebody asks for it. */
  private void record() throws IOException {
    if (RECORD.isEmpty()) {
      return;
    }
    BenchRecords records = new BenchRecords("make soak-ssd", BenchRecords.machine());
    records.add("lives", KILLS + 1, "lives");
    records.add("lives killed, at named points and by the clock", (double) killed, "lives");
    records.check("1,000 of them at least", killed >= 1000);
    double stored = (double) sums[0];
    double back = (double) (sums[0] - sums[1]);
    records.add("blocks back of those that were stored", back, "blocks", stored, 0.99);
    records.add("blocks half overwritten at a kill, and so misses", (double) sums[2], "blocks");
    records.check("no block wrong", sums[4] == 0);
    records.check("no block called damaged that a kill tore", sums[3] == 0);
    records.add("lives that took longer than %d s".formatted(SLOW_SECONDS), (double) slow, "lives");
    records.write(Path.of(RECORD));
  }

  private void tell(int lives) {
    System.out.printf(
        "ssd crash: %d lives, %d killed, %d slow; blocks wanted %d, missing %d, stale %d, corrupt"
            + " %d, wrong %d%n",
        lives, killed, slow, sums[0], sums[1], sums[2], sums[3], sums[4]);
  }

  private void life(int number) throws IOException, InterruptedException {
    List<String> points = SsdCrashChild.points();
    String point = number < 0 ? "none" : points.get(number % points.size());
    int count = 1 + random.nextInt(countsUpTo(point));
    List<String> command = new ArrayList<>();
    command.add(ProcessHandle.current().info().command().orElse("java"));
    command.addAll(
        List.of(
            "--enable-native-access=ALL-UNNAMED",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xmx256m",
            "-cp",
            System.getProperty("java.class.path"),
            SsdCrashChild.class.getName(),
            folder.toString(),
            Long.toString(random.nextLong()),
            point,
            Integer.toString(count),
            number % 2 == 0 ? "0" : "8"));
    Path said = folder.resolve("output");
    Process child =
        new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(said.toFile()).start();
    // By the clock: while it starts, recovers, verifies or works.
    if (point.equals("timer") && !child.waitFor(200 + random.nextInt(500), TimeUnit.MILLISECONDS)) {
      child.destroyForcibly();
    }
    awaitEnd(child, "life %d, %s %d".formatted(number, point, count), said);
    String output = Files.readString(said);
    boolean wasKilled = child.exitValue() == 137;
    killed += wasKilled ? 1 : 0;
    assertThat(wasKilled || child.exitValue() == 0)
        .as("life %d, %s %d: exit %d%n%s", number, point, count, child.exitValue(), output)
        .isTrue();
    Matcher line = VERIFIED.matcher(output);
    boolean verified = line.find();
    // A kill may come before everything is looked at; the next life looks again.
    assertThat(verified || wasKilled).as("%s", output).isTrue();
    for (int i = 0; verified && i < sums.length; i++) {
      sums[i] += Long.parseLong(line.group(i + 1));
    }
    assertThat(verified && sums[4] > 0 ? output : "").isEmpty();
  }

  /**
   * Waits for the end of a life. One that takes long says what it is at; a machine that is busy
   * with other things lets it end all the same, and only what never ends hangs.
   */
  private void awaitEnd(Process child, String life, Path said)
      throws IOException, InterruptedException {
    if (child.waitFor(SLOW_SECONDS, TimeUnit.SECONDS)) {
      return;
    }
    slow++;
    String seen = StuckProcess.describe(child.toHandle(), said);
    System.out.printf("%s has not ended in %d s%n%s%n", life, SLOW_SECONDS, seen);
    boolean ended = child.waitFor(HUNG_SECONDS, TimeUnit.SECONDS);
    if (!ended) {
      seen += "%n-- %d s later%n".formatted(HUNG_SECONDS);
      seen += StuckProcess.describe(child.toHandle(), said);
      child.destroyForcibly();
    }
    assertThat(ended).as("%s hangs%n%s", life, seen).isTrue();
  }

  private static int countsUpTo(String point) {
    return switch (point) {
      case "payload", "payload-torn" -> 150;
      case "header", "header-torn" -> 60;
      case "read" -> 40;
      default -> 6;
    };
  }
}
