package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class SpinPolicyTest {
  private final SpinPolicy policy = new SpinPolicy(50_000);

  private void failQuickly(int times) {
    for (int i = 0; i < times; i++) {
      policy.afterWork(0);
      policy.slept(20_000, true);
    }
  }

  @Test
  void spinsThatNeverFind_beforeQuickWakeUps_stopSpinning() {
    failQuickly(3);
    assertThat(policy.afterWork(0)).isZero();
  }

  @Test
  void spinsThatFind_goOn() {
    for (int i = 0; i < 100; i++) {
      assertThat(policy.afterWork(0)).isEqualTo(50_000);
      policy.found();
    }
  }

  @Test
  void spinsBeforeLongSleeps_countNothing() {
    for (int i = 0; i < 100; i++) {
      assertThat(policy.afterWork(0)).isEqualTo(50_000);
      policy.slept(5_000_000, true);
      policy.slept(100_000, false);
    }
  }

  @Test
  void stoppedSpinning_isTriedNowAndThen_andComesBackWhenItFinds() {
    failQuickly(3);
    int tried = 0;
    for (int i = 0; i < 128; i++) {
      if (policy.afterWork(0) > 0) {
        tried++;
        policy.slept(20_000, true);
      }
    }
    assertThat(tried).isEqualTo(2);
    while (policy.afterWork(0) == 0) {
      policy.slept(20_000, true);
    }
    policy.found();
    assertThat(policy.afterWork(0)).isEqualTo(50_000);
  }

  @Test
  void expected_spinsUntilThen_whereSpinsDoGood() {
    policy.expect(1_000_000);
    assertThat(policy.afterWork(0)).isEqualTo(1_000_000);
    assertThat(policy.afterWork(400_000)).isEqualTo(600_000);
    assertThat(policy.afterWork(980_000)).isEqualTo(50_000);
    assertThat(policy.afterWork(1_000_001)).isEqualTo(50_000);
    failQuickly(3);
    policy.expect(1_000_000);
    assertThat(policy.afterWork(0)).isZero();
    SpinPolicy never = new SpinPolicy(0);
    never.expect(1_000_000);
    assertThat(never.afterWork(0)).isZero();
  }
}
