package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class SpinPolicyTest {
  private final SpinPolicy policy = new SpinPolicy(50_000);

  private void failQuickly(int times) {
    for (int i = 0; i < times; i++) {
      policy.afterWork();
      policy.slept(20_000, true);
    }
  }

  @Test
  void spinsThatNeverFind_beforeQuickWakeUps_stopSpinning() {
    failQuickly(3);
    assertThat(policy.afterWork()).isZero();
  }

  @Test
  void spinsThatFind_goOn() {
    for (int i = 0; i < 100; i++) {
      assertThat(policy.afterWork()).isEqualTo(50_000);
      policy.found();
    }
  }

  @Test
  void spinsBeforeLongSleeps_countNothing() {
    for (int i = 0; i < 100; i++) {
      assertThat(policy.afterWork()).isEqualTo(50_000);
      policy.slept(5_000_000, true);
      policy.slept(100_000, false);
    }
  }

  @Test
  void stoppedSpinning_isTriedNowAndThen_andComesBackWhenItFinds() {
    failQuickly(3);
    int tried = 0;
    for (int i = 0; i < 128; i++) {
      if (policy.afterWork() > 0) {
        tried++;
        policy.slept(20_000, true);
      }
    }
    assertThat(tried).isEqualTo(2);
    while (policy.afterWork() == 0) {
      policy.slept(20_000, true);
    }
    policy.found();
    assertThat(policy.afterWork()).isEqualTo(50_000);
  }
}
