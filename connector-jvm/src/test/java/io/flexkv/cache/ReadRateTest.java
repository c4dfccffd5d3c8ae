package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class ReadRateTest {
  private static final long MS = 1_000_000;
  private static final long MIB = 1 << 20;

  private final ReadRate rate = new ReadRate();

  private void read(long bytes, long nanos) {
    rate.begun(0);
    rate.brought(bytes, nanos);
    rate.ended(nanos);
  }

  @Test
  void bytesPerSecond_smallReads_areLatencyAndTellNothing() {
    read(MIB, MS);
    read(MIB, 60 * MS);
    assertThat(rate.bytesPerSecond(100 * MS)).isZero();
  }

  @Test
  void bytesPerSecond_enoughBytes_isTheirRate() {
    read(8 * MIB, 4 * MS);
    assertThat(rate.bytesPerSecond(100 * MS)).isEqualTo(2000.0 * MIB);
    read(MIB, 60 * MS);
    assertThat(rate.bytesPerSecond(100 * MS)).as("unchanged").isEqualTo(2000.0 * MIB);
  }
}
