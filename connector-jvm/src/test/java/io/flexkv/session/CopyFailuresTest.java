package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class CopyFailuresTest {
  private final CopyFailures failures = new CopyFailures();
  private long now = Long.MAX_VALUE - 1_000_000_000; // nanoTime may be anything, and wrap

  private long pause() {
    failures.add(now);
    long began = now;
    while (failures.paused()) {
      now += 1_000_000_000;
      failures.resume(now);
    }
    return now - began;
  }

  @Test
  void add_oneByOne_pausesTwiceAsLongEachTimeWithinBounds() {
    assertThat(pause()).isZero();
    assertThat(pause()).isEqualTo(CopyFailures.FIRST_PAUSE_NANOS);
    assertThat(pause()).isEqualTo(2 * CopyFailures.FIRST_PAUSE_NANOS);
    for (int i = 0; i < 100; i++) {
      assertThat(pause()).isLessThanOrEqualTo(CopyFailures.LONGEST_PAUSE_NANOS);
    }
    assertThat(pause()).isEqualTo(CopyFailures.LONGEST_PAUSE_NANOS);
  }

  @Test
  void add_longAfterTheLast_isTheFirstAgain() {
    pause();
    pause();
    now += CopyFailures.FORGET_NANOS + 1;
    assertThat(pause()).isZero();
  }
}
