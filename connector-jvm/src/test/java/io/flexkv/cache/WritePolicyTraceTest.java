package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfSystemProperty;

/**
 * What the write policies are worth on a trace of real conversations. CI plays its first 600
 * requests (conversation_trace.jsonl of Mooncake, FAST'25, Apache-2.0,
 * github.com/kvcache-ai/Mooncake, folder FAST25-release/traces, commit 3b5a5941); {@code
 * -Dflexkv.trace=FILE.jsonl.gz} plays a whole one and prints the table of the decision ({@code
 * docs/decisions/ssd-write-policy.md}).
 */
class WritePolicyTraceTest {
  private static final String SLICE = "mooncake-conversation-600.jsonl.gz";

  @Test
  void slice_writeThroughAndBack_multiplyTheHitsOfTheHostTierAlone() throws IOException {
    List<TraceReplay.Request> trace;
    try (InputStream in = WritePolicyTraceTest.class.getResourceAsStream(SLICE)) {
      trace = TraceReplay.read(Objects.requireNonNull(in, SLICE));
    }
    assertThat(trace).hasSize(600);
    TraceReplay.Result alone = play(trace, 1000, 0, WritePolicy.THROUGH, 0);
    Map<WritePolicy, TraceReplay.Result> results = new EnumMap<>(WritePolicy.class);
    for (WritePolicy policy : WritePolicy.values()) {
      results.put(policy, play(trace, 1000, 20_000, policy, 1000));
    }
    System.out.printf("write policies on %s: host alone %s, %s%n", SLICE, alone, results);
    assertThat(alone.ssdHits()).isZero();
    assertThat(alone.hostHits()).isEqualTo(638);
    assertThat(hits(results, WritePolicy.THROUGH)).isGreaterThan(4 * alone.hitPercent());
    assertThat(hits(results, WritePolicy.BACK)).isGreaterThan(4 * alone.hitPercent());
    assertThat(hits(results, WritePolicy.THROUGH))
        .as("what is not written when it is seen first is gone when it is seen again")
        .isGreaterThan(hits(results, WritePolicy.SECOND_HIT));
    assertThat(written(results, WritePolicy.SECOND_HIT))
        .isLessThan(written(results, WritePolicy.THROUGH));
  }

  private static double hits(Map<WritePolicy, TraceReplay.Result> results, WritePolicy policy) {
    return Objects.requireNonNull(results.get(policy)).hitPercent();
  }

  private static long written(Map<WritePolicy, TraceReplay.Result> results, WritePolicy policy) {
    return Objects.requireNonNull(results.get(policy)).written();
  }

  @Test
  @EnabledIfSystemProperty(named = "flexkv.trace", matches = ".+")
  void wholeTrace_everyPolicy_isPrinted() throws IOException {
    List<TraceReplay.Request> trace;
    try (InputStream in = Files.newInputStream(Path.of(System.getProperty("flexkv.trace")))) {
      trace = TraceReplay.read(in);
    }
    System.out.println(
        "| host | SSD | writes/s | policy | hit % | of it host % | written | skipped |");
    for (int host : new int[] {2_000, 5_000, 20_000}) {
      row(host, 0, 0, WritePolicy.THROUGH, trace);
      for (int ssd : new int[] {50_000, 200_000}) {
        for (double rate : new double[] {1e6, 40, 10}) {
          for (WritePolicy policy : WritePolicy.values()) {
            row(host, ssd, rate, policy, trace);
          }
        }
      }
    }
  }

  private static void row(
      int host, int ssd, double rate, WritePolicy policy, List<TraceReplay.Request> trace) {
    TraceReplay.Result is = play(trace, host, ssd, policy, rate);
    System.out.printf(
        "| %d | %d | %.0f | %s | %.2f | %.2f | %d | %d |%n",
        host,
        ssd,
        rate,
        ssd == 0 ? "none" : policy,
        is.hitPercent(),
        is.hostPercent(),
        is.written(),
        is.skipped());
  }

  private static TraceReplay.Result play(
      List<TraceReplay.Request> trace, int host, int ssd, WritePolicy policy, double rate) {
    return TraceReplay.play(trace, host, ssd, policy, EvictionSettings.DEFAULT, rate);
  }
}
