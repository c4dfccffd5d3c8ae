package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Blocks that are looked at without anybody asking for them: offline and in the background. */
class SsdDoctorTest {
  private static final int BLOCKS = 40;

  @TempDir Path folder;

  private final List<String> said = new ArrayList<>();

  private Path directory() {
    return folder.resolve("a");
  }

  private SsdOptions options(long scrubBytesPerSecond) {
    return new SsdOptions(List.of(directory()), 16 << 20, 0, 0, 0, 4, scrubBytesPerSecond);
  }

  private static List<SlotHeader> headers() {
    return IntStream.range(0, BLOCKS)
        .mapToObj(i -> SsdRig.header(i + 1, i, 0, 30_000, 100))
        .toList();
  }

  private void flip(long slot) throws IOException {
    try (RandomAccessFile data =
        new RandomAccessFile(directory().resolve("flexkv-ssd-0000.data").toFile(), "rw")) {
      long at = SlotNumber.offset(slot) + 12_345;
      data.seek(at);
      int before = data.read();
      data.seek(at);
      data.write(before ^ 4);
      data.getFD().sync();
    }
  }

  @Test
  void healthyDirectory_isSaidToBe_andLeftAsItIs() throws IOException {
    try (SsdRig rig = SsdRig.open(options(0), SsdRig.tuning())) {
      rig.write(headers());
    }
    byte[] meta = Files.readAllBytes(directory().resolve("flexkv-ssd.meta"));
    SsdDoctor.Report report = SsdDoctor.examine(directory(), said::add);
    assertThat(report.healthy()).isTrue();
    assertThat(report.good()).isEqualTo(BLOCKS);
    assertThat(report.goodBytes()).isEqualTo(BLOCKS * 30_000L);
    assertThat(report.clean()).isTrue();
    assertThat(said)
        .anyMatch(line -> line.contains("40 blocks verified"))
        .anyMatch(line -> line.contains("ended cleanly"))
        .anyMatch(line -> line.contains("generation 0: 40 blocks"));
    assertThat(directory().resolve("flexkv-ssd.meta")).hasBinaryContent(meta);
    try (SsdRig rig = SsdRig.open(options(0), SsdRig.tuning())) {
      assertThat(rig.recovered).hasSize(BLOCKS);
    }
  }

  @Test
  void badBlock_isNamed_withBothSums() throws IOException {
    long[] slots;
    try (SsdRig rig = SsdRig.open(options(0), SsdRig.tuning())) {
      slots = rig.write(headers());
    }
    flip(slots[7]);
    SsdDoctor.Report report = SsdDoctor.examine(directory(), said::add);
    assertThat(report.healthy()).isFalse();
    assertThat(report.bad()).isOne();
    assertThat(report.good()).isEqualTo(BLOCKS - 1);
    assertThat(said)
        .anyMatch(line ->
            line.matches(
                "file 0, offset "
                    + SlotNumber.offset(slots[7])
                    + ": checksum [0-9a-f]{8}, wanted [0-9a-f]{8}"));
  }

  @Test
  void directoryInUse_orOfSomebodyElse_isRefused() throws IOException {
    try (SsdRig rig = SsdRig.open(options(0), SsdRig.tuning())) {
      assertThat(rig.engine.usedBytes()).isZero();
      assertThatThrownBy(() -> SsdDoctor.examine(directory(), said::add))
          .isInstanceOf(SsdInUseException.class);
    }
    assertThatThrownBy(() -> SsdDoctor.examine(folder.resolve("none"), said::add))
        .hasMessageContaining("is not a folder");
    assertThatThrownBy(() -> SsdDoctor.examine(folder, said::add))
        .hasMessageContaining("has never used it");
    assertThat(folder.resolve("flexkv-ssd.lock")).as("nothing is left there").doesNotExist();
  }

  @Test
  void lockThatCannotBeOpened_saysWhyAndWhatToDo() throws IOException {
    try (SsdRig rig = SsdRig.open(options(0), SsdRig.tuning())) {
      assertThat(rig.engine.usedBytes()).isZero();
    }
    Path lock = directory().resolve("flexkv-ssd.lock");
    Files.delete(lock);
    Files.createDirectory(lock);
    assertThatThrownBy(() -> SsdDoctor.examine(directory(), said::add))
        .hasMessageContaining("flexkv-ssd.lock cannot be opened (")
        .hasMessageContaining("Remedy: run this as the user");
  }

  @Test
  void scrub_findsABadBlock_beforeAnybodyReadsIt() throws IOException {
    try (SsdRig rig = SsdRig.open(options(100 << 20), SsdRig.tuning())) {
      List<SlotHeader> headers = headers();
      long[] slots = rig.write(headers);
      rig.until(() -> rig.engine.stats().scrubbedBlocks() > 2 * BLOCKS);
      assertThat(rig.engine.stats().corruptBlocks()).isZero();
      flip(slots[3]);
      rig.until(() -> rig.engine.stats().corruptBlocks() == 1);
      assertThat(rig.read(slots[3], headers.get(3).identity()).outcome())
          .isEqualTo(SsdEvent.Outcome.FAILED);
      assertThat(rig.read(slots[4], headers.get(4).identity()).ready()).isOne();
      long used = rig.engine.usedBytes();
      rig.engine.free(slots[3]);
      assertThat(rig.engine.usedBytes()).as("held for ever").isEqualTo(used);
    }
  }

  @Test
  void scrub_besideWritesIntoFreedSlots_isNeverWrong() throws IOException {
    try (SsdRig rig = SsdRig.open(options(4L << 30), SsdRig.tuning())) {
      for (int round = 0; round < 150; round++) {
        List<SlotHeader> headers =
            IntStream.range(0, 8).mapToObj(i -> SsdRig.header(1 + i, 0, 1, 30_000, 0)).toList();
        for (long slot : rig.write(headers)) {
          rig.engine.free(slot);
        }
      }
      assertThat(rig.engine.stats().corruptBlocks()).isZero();
    }
  }
}
