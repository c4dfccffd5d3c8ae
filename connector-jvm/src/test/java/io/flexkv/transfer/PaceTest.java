package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.device.Direction;
import org.junit.jupiter.api.Test;

/** When the next slice may go, on a clock of the test's own. */
class PaceTest {
  private static final long MILLI = 1_000_000;
  private static final long SLICE = 1 << 20;

  private final MoveLimits limits = new MoveLimits();
  private final Pace pace = new Pace(limits, Direction.LOAD);

  /** Submits slices whenever it is allowed, looking every so often; bytes in so long. */
  private long movedIn(long nanos, long lookEveryNanos, long from) {
    long bytes = 0;
    for (long now = from; now < from + nanos; now += lookEveryNanos) {
      while (pace.allows(now) && bytes < 100 * nanos) {
        pace.submitted(SLICE, now);
        bytes += SLICE;
      }
    }
    return bytes;
  }

  @Test
  void noLimit_allowsAlways() {
    assertThat(movedIn(MILLI, MILLI, 0)).isGreaterThanOrEqualTo(100 * MILLI);
  }

  @Test
  void limit_isKept() {
    limits.set(1_000_000_000, 0);
    long most = 1_000 * MILLI + Pace.AHEAD_NANOS + SLICE;
    assertThat(movedIn(1_000 * MILLI, 10_000, -5)).isBetween(1_000 * MILLI - SLICE, most);
  }

  @Test
  void lateBut2ms_losesNothingOfTheRate() {
    limits.set(1_000_000_000, 0);
    assertThat(movedIn(1_000 * MILLI, Pace.AHEAD_NANOS, -77))
        .isGreaterThanOrEqualTo(1_000 * MILLI - SLICE);
  }

  @Test
  void pause_savesNothingUpBeyond2ms() {
    limits.set(1_000_000_000, 0);
    movedIn(10 * MILLI, 10_000, 0);
    long at = 60_000 * MILLI;
    assertThat(movedIn(10_000, 10_000, at)).isLessThanOrEqualTo(Pace.AHEAD_NANOS + 2 * SLICE);
  }

  @Test
  void limit_lifted_allowsAtOnce() {
    limits.set(1, 0);
    pace.submitted(SLICE, 0);
    assertThat(pace.allows(MILLI)).isFalse();
    limits.set(0, 0);
    assertThat(pace.allows(MILLI)).isTrue();
  }

  @Test
  void limit_raised_doesNotWaitForWhatTheOldOneOwed() {
    limits.set(1, 0);
    pace.submitted(SLICE, 0);
    limits.set(1_000_000_000, 0);
    assertThat(pace.allows(MILLI)).isTrue();
    assertThat(movedIn(100 * MILLI, 10_000, MILLI))
        .isBetween(100 * MILLI - SLICE, 100 * MILLI + Pace.AHEAD_NANOS + SLICE);
  }

  @Test
  void slicesUnderALimit_areShortAndGoOneAtATime() {
    assertThat(pace.oneAtATime()).isFalse();
    assertThat(pace.bytesOfNext(100 * SLICE)).isEqualTo(100 * SLICE);
    limits.set(1, 0);
    assertThat(pace.oneAtATime()).isTrue();
    assertThat(pace.bytesOfNext(100 * SLICE)).isEqualTo(Pace.SLICE_BYTES);
    assertThat(pace.bytesOfNext(SLICE)).isEqualTo(SLICE);
  }

  @Test
  void limit_ofTheOtherDirection_doesNotMatter() {
    limits.set(0, 1);
    assertThat(pace.oneAtATime()).isFalse();
    pace.submitted(SLICE, 0);
    pace.submitted(SLICE, 0);
    assertThat(pace.allows(0)).isTrue();
  }

  @Test
  void set_negative_isRefusedWithBothValues() {
    assertThatThrownBy(() -> limits.set(-1, 2)).hasMessageContaining("-1 and 2");
  }
}
