package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

/** What it compiles is what serves: every chain is read and may be loaded whole. */
class SsdWarmupTest {
  @Test
  void run_everyChain_isServedWhole() throws Exception {
    assertThat(SsdWarmup.run(40)).as("more than the pool holds at once").isEqualTo(40);
  }
}
