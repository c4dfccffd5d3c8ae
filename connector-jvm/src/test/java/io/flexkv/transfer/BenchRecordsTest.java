package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

/** What a record says of the machine. */
class BenchRecordsTest {
  @Test
  void kernel_withSuffixOfItsBuilder_isTheVersion() {
    assertThat(BenchRecords.kernel("6.8.0-60-generic")).isEqualTo("6.8.0");
    assertThat(BenchRecords.kernel("6.12.48+deb13-amd64")).isEqualTo("6.12.48");
    assertThat(BenchRecords.kernel("6.18.44")).isEqualTo("6.18.44");
  }

  @Test
  void machine_saysTheKernelWithoutSuffix() {
    assertThat(BenchRecords.machine()).containsPattern("Linux [0-9.]+, Java ");
  }
}
