package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

final class CopySliceTest {
  private final CopySlice slice = new CopySlice(3);

  private void isSingle(long device, long host, long length) {
    assertThat(slice.count()).isEqualTo(1);
    assertThat(slice.deviceAddress(0)).isEqualTo(device);
    assertThat(slice.hostAddress(0)).isEqualTo(host);
    assertThat(slice.length(0)).isEqualTo(length);
    assertThat(slice.bytes()).isEqualTo(length);
  }

  @Test
  void add_neighbourAbove_lengthens() {
    slice.add(100, 1000, 10);
    slice.add(110, 1010, 5);
    isSingle(100, 1000, 15);
  }

  @Test
  void add_neighbourBelow_lengthensDownwards() {
    slice.add(100, 1000, 10);
    slice.add(95, 995, 5);
    isSingle(95, 995, 15);
  }

  @Test
  void add_neighbourOnOneSideOnly_staysApart() {
    slice.add(100, 1000, 10);
    slice.add(110, 2000, 10);
    slice.add(100, 1990, 10);
    assertThat(slice.count()).as("device runs up, host does not; then down").isEqualTo(2);
    slice.clear();
    slice.add(100, 1000, 10);
    slice.add(90, 2000, 10);
    slice.add(500, 1990, 10);
    assertThat(slice.count()).isEqualTo(3);
    assertThat(slice.bytes()).isEqualTo(30);
  }

  @Test
  void add_full_refusedButANeighbourStillFits() {
    assertThat(slice.add(100, 1000, 10)).isTrue();
    assertThat(slice.add(200, 3000, 10)).isTrue();
    assertThat(slice.add(300, 2000, 10)).isTrue();
    assertThat(slice.add(400, 5000, 10)).isFalse();
    assertThat(slice.add(310, 2010, 10)).isTrue();
    assertThat(slice.count()).isEqualTo(3);
    assertThat(slice.bytes()).isEqualTo(40);
  }
}
