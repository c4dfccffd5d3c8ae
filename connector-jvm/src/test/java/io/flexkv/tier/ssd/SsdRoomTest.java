package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Folders of 8 MiB each on disks as the test has them: what a refusal names works. */
class SsdRoomTest {
  private static final long HELD = 8 << 20;
  private static final long EXTENT = 64 << 10;

  @TempDir Path folder;

  private final List<DirectoryFiles> opened = new ArrayList<>();

  @BeforeEach
  void open() throws IOException {
    for (String name : List.of("a", "b")) {
      opened.add(
          DirectoryFiles.open(folder.resolve(name), HELD, 0, EXTENT, new SplittableRandom(1)));
    }
  }

  @AfterEach
  void close() throws IOException {
    for (DirectoryFiles files : opened) {
      files.close();
    }
  }

  private void require(Map<String, Disk> disks, long bytes) throws IOException {
    SsdRoom room = new SsdRoom(path -> disks.get(path.getFileName().toString()));
    room.require(opened, SsdRig.options(0, bytes, folder.resolve("a"), folder.resolve("b")));
  }

  private static Disk disk(String name, long freeBytes) {
    return new Disk(name, false, 1L << 40, freeBytes);
  }

  /** The refusal's text; the size that it names is one that can be, the next larger one is not. */
  private String refusal(Map<String, Disk> disks, long bytes) {
    List<String> text = new ArrayList<>();
    assertThatThrownBy(() -> require(disks, bytes))
        .isInstanceOf(IOException.class)
        .satisfies(e -> text.add(e.getMessage()));
    Matcher remedy =
        Pattern.compile("Remedy: flexkv set ssd_cache_gb=([0-9.]+) or less")
            .matcher(text.getFirst());
    assertThat(remedy.find()).as(text.getFirst()).isTrue();
    long named = Math.round(Double.parseDouble(remedy.group(1)) * 1e9);
    assertThatCode(() -> require(disks, named)).doesNotThrowAnyException();
    assertThatThrownBy(() -> require(disks, named + named / 40)).isInstanceOf(IOException.class);
    return text.getFirst();
  }

  @Test
  void require_disksOfTheirOwn_theSmallerOneDecides() {
    Map<String, Disk> disks =
        Map.of("a", disk("/d0 (nvme0)", 900_000_000), "b", disk("/d1 (nvme1)", 100_000_000));
    assertThat(refusal(disks, 1_000_000_000))
        .startsWith("SSD directory " + folder.resolve("b") + " needs 0.49")
        .contains(" GB more on /d1 (nvme1), where 0.1 are free. ");
  }

  @Test
  void require_foldersOfOneDisk_divideWhatIsFree() {
    Disk shared = disk("/d (nvme)", 100_000_000);
    assertThat(refusal(Map.of("a", shared, "b", shared), 200_000_000))
        .contains(folder.resolve("a") + " with " + folder.resolve("b") + " needs 0.18");
  }

  @Test
  void require_noRoomAtAll_namesASizeThatTheFilesHaveAlready() throws IOException {
    Disk full = disk("/d (nvme)", 0);
    Map<String, Disk> disks = Map.of("a", full, "b", full);
    require(disks, 2 * HELD);
    assertThat(refusal(disks, 100_000_000)).contains("where 0 are free");
  }

  @Test
  void require_moreThanExtentsReach_namesTheMostBesidesARestart() {
    Disk large = disk("/d (nvme)", 1L << 50);
    assertThat(refusal(Map.of("a", large, "b", large), 1L << 40))
        .isEqualTo(
            "1099.5116 GB cannot be while it serves. Remedy: flexkv set ssd_cache_gb=8.586 or less,"
                + " or restart the sidecar with that size");
  }

  @Test
  void madeText_onTheSystemsDisk_saysWhatToDoIfThatIsNotMeant() {
    Path path = Path.of("/mnt/typo/ssd");
    assertThat(new Disk("/ (/dev/vda)", true, 1, 54_000_000_000L).madeText(path, 20_000_000_000L))
        .startsWith(
            "SSD directory /mnt/typo/ssd was not there and has been made on the system's disk, "
                + "/ (/dev/vda): 54 GB are free there, it takes 20 GB. If another disk is meant: ");
    assertThat(
            new Disk("/mnt (/dev/nvme0)", false, 1, 54_000_000_000L).madeText(path, 1_000_000_000))
        .endsWith("has been made on /mnt (/dev/nvme0): 54 GB are free there, it takes 1 GB");
  }
}
