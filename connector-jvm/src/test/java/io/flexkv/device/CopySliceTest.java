package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

final class CopySliceTest {
  private final CopySlice slice = new CopySlice(3);

  private void isSingle(long device, long host, long length) {
    assertThat(slice.count()).isEqualTo(1);
    assertThat(slice.deviceAddress(0)).isEqualTo(device);
    assertThat(slice.hostAddress(0)).isEqualTo(host);
    assertThat(slice.width(0)).isEqualTo(length);
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

  @Test
  void addRows_strided_isOneCopyThatNoNeighbourJoins() {
    assertThat(slice.addRows(100, 1000, 10, 4, 50, 10)).isTrue();
    assertThat(slice.rows(0)).isEqualTo(4);
    assertThat(slice.devicePitch(0)).isEqualTo(50);
    assertThat(slice.hostPitch(0)).isEqualTo(10);
    assertThat(slice.hostExtent(0)).isEqualTo(40);
    assertThat(slice.bytes()).isEqualTo(40);
    slice.add(110, 1010, 10);
    assertThat(slice.count()).as("a neighbour of its first row").isEqualTo(2);
    slice.addRows(120, 1020, 10, 2, 20, 20);
    slice.add(130, 1030, 10);
    assertThat(slice.count()).isEqualTo(3);
    assertThat(slice.add(900, 9000, 1)).as("full").isFalse();
    assertThat(slice.addRows(900, 9000, 1, 2, 5, 5)).as("full").isFalse();
    assertThat(slice.bytes()).isEqualTo(70);
  }

  @Test
  void hostStartAndEnd_allKindsOfCopies_coverThem() {
    slice.add(100, 1000, 10);
    slice.add(95, 995, 5);
    assertThat(slice.hostStart()).as("joined downwards").isEqualTo(995);
    assertThat(slice.hostEnd()).isEqualTo(1010);
    slice.addRows(500, 2000, 10, 3, 50, 20);
    assertThat(slice.hostEnd()).as("the last row's end").isEqualTo(2050);
    slice.add(700, 300, 5);
    assertThat(slice.hostStart()).isEqualTo(300);
    assertThat(slice.add(800, 5000, 5)).as("full").isFalse();
    assertThat(slice.hostEnd()).isEqualTo(2050);
    slice.clear();
    slice.add(100, 1000, 10);
    assertThat(slice.hostStart()).isEqualTo(1000);
    assertThat(slice.hostEnd()).isEqualTo(1010);
  }

  @Test
  void addRows_withoutGaps_isAPlainCopy() {
    slice.add(90, 990, 10);
    slice.addRows(100, 1000, 10, 3, 10, 10);
    slice.addRows(130, 1030, 5, 1, 99, 99);
    isSingle(90, 990, 45);
    assertThat(slice.rows(0)).isEqualTo(1);
  }

  @Test
  void addRows_rowsThatOverlap_refused() {
    assertThatThrownBy(() -> slice.addRows(100, 1000, 10, 2, 9, 10))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("devicePitch=9");
  }
}
