package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assumptions.assumeThat;

import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A store that gets another size while it serves. */
class SsdResizeTest {
  private static final long SMALL = 6 << 20;
  private static final long LARGE = 16 << 20;
  private static final int PAYLOAD = 100_000;
  private static final long EXTENT = 256 << 10;

  @TempDir Path folder;

  private final Map<Long, SlotHeader> held = new LinkedHashMap<>();
  private long nextKey = 1;

  /** By io_uring with one file a folder, or by threads with files of 2 MiB. */
  private SsdRig open(long capacity, boolean split) throws IOException {
    List<Path> folders = List.of(folder.resolve("a"), folder.resolve("b"));
    return SsdRig.open(
        new SsdOptions(folders, capacity, split ? 2 << 20 : 0, split ? 0 : 8, 0, 4, 0),
        SsdRig.tuning());
  }

  private void fill(SsdRig rig) {
    fill(rig, Integer.MAX_VALUE, 0);
  }

  private void fill(SsdRig rig, int blocks, int eventBytes) {
    long slot;
    for (int i = 0; i < blocks && (slot = rig.engine.allocate(PAYLOAD)) != SsdStore.FULL; i++) {
      SlotHeader header = SsdRig.header(nextKey++, 0, 0, PAYLOAD, eventBytes);
      rig.await(rig.submitWrite(new long[] {slot}, List.of(header)));
      held.put(slot, header);
      rig.engine.poll();
    }
  }

  private void checkHeld(SsdRig rig) {
    held.forEach((slot, header) ->
        assertThat(rig.read(slot, header.identity()).ready()).as("slot %x", slot).isOne());
  }

  private static void resize(SsdRig rig, long bytes) throws IOException {
    rig.engine.prepareResize(bytes);
    rig.engine.resize(bytes);
    rig.engine.resizeOver();
  }

  private void freeWhatLeaves(SsdRig rig) {
    for (long slot : List.copyOf(held.keySet())) {
      if (rig.engine.leaves(slot)) {
        rig.engine.free(slot);
        held.remove(slot);
      }
    }
  }

  /** Until the files are short; the cache thread looks at news meanwhile. */
  private static void awaitGivenBack(SsdRig rig) {
    rig.until(() -> rig.engine.poll() == null && rig.engine.surplusBytes() == 0);
  }

  private long bytesOnDisk() throws IOException {
    long bytes = 0;
    for (String name : List.of("a", "b")) {
      try (Stream<Path> files = Files.list(folder.resolve(name))) {
        for (Path file : files.toList()) {
          bytes += Files.size(file);
        }
      }
    }
    return bytes;
  }

  /** The same blocks under the slots that a start found them in. */
  private void afterRestart(SsdRig rig) {
    Map<Long, SlotHeader> wanted = new HashMap<>();
    held.values().forEach(header -> wanted.put(header.identity().keyLo(), header));
    held.clear();
    rig.recovered.forEach((slot, header) -> {
      if (wanted.remove(header.identity().keyLo()) != null) {
        held.put(slot, header);
      }
    });
    assertThat(wanted.keySet()).as("missing").isEmpty();
  }

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void larger_keepsWhatIsThere_andHasRoomForMore(boolean split) throws IOException {
    try (SsdRig rig = open(SMALL, split)) {
      fill(rig);
      int before = held.size();
      resize(rig, LARGE);
      assertThat(rig.engine.capacityBytes()).isEqualTo(LARGE);
      checkHeld(rig);
      fill(rig);
      assertThat(held.size()).isGreaterThan(2 * before);
      checkHeld(rig);
      assertThat(bytesOnDisk()).isBetween(SMALL + 1, LARGE);
    }
    try (SsdRig rig = open(LARGE, split)) {
      afterRestart(rig);
      checkHeld(rig);
    }
  }

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void smaller_keepsItsFront_andCutsItsFilesOnceTheRestIsFree(boolean split) throws IOException {
    try (SsdRig rig = open(LARGE, split)) {
      fill(rig);
      int before = held.size();
      resize(rig, SMALL);
      assertThat(rig.engine.shrinks()).isTrue();
      assertThat(rig.engine.surplusBytes()).isBetween(8L << 20, LARGE - SMALL + (1 << 20));
      checkHeld(rig);
      assertThat(bytesOnDisk()).as("somebody holds slots there").isGreaterThan(SMALL);
      freeWhatLeaves(rig);
      assertThat(held.size()).isBetween(before / 6, before / 2);
      awaitGivenBack(rig);
      assertThat(rig.engine.shrinks()).isFalse();
      assertThat(bytesOnDisk()).isLessThanOrEqualTo(SMALL);
      checkHeld(rig);
      fill(rig);
      assertThat(rig.engine.usedBytes()).isLessThanOrEqualTo(SMALL);
      checkHeld(rig);
    }
    try (SsdRig rig = open(SMALL, split)) {
      afterRestart(rig);
      checkHeld(rig);
    }
  }

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void smallerThenLarger_whatLayBeyondDoesNotComeBack(boolean split) throws IOException {
    try (SsdRig rig = open(LARGE, split)) {
      fill(rig);
      resize(rig, SMALL);
      freeWhatLeaves(rig);
      awaitGivenBack(rig);
      resize(rig, LARGE);
      fill(rig, 30, 0);
      checkHeld(rig);
    }
    try (SsdRig rig = open(LARGE, split)) {
      assertThat(rig.recovered.size()).isEqualTo(held.size());
      afterRestart(rig);
      checkHeld(rig);
      assertThat(rig.engine.stats().corruptBlocks()).isZero();
    }
  }

  @Test
  void smallerThenLargerBeforeAllIsFree_nothingMoreGoes() throws IOException {
    try (SsdRig rig = open(LARGE, false)) {
      fill(rig);
      int before = held.size();
      resize(rig, SMALL);
      resize(rig, LARGE);
      assertThat(held.keySet().stream().anyMatch(rig.engine::leaves)).isFalse();
      assertThat(rig.engine.shrinks()).isFalse();
      for (long slot : List.copyOf(held.keySet()).subList(0, 20)) {
        rig.engine.free(slot);
        held.remove(slot);
      }
      fill(rig);
      assertThat(held.size()).as("the header log may take some").isBetween(before - 10, before);
      checkHeld(rig);
    }
  }

  /** Long headers: the log has taken extents at the end of the directories. */
  @Test
  void smaller_headerLogMovesFromTheEnd() throws IOException {
    try (SsdRig rig = open(LARGE, false)) {
      fill(rig, 30, 0);
      for (int round = 0; round < 12; round++) {
        List<SlotHeader> headers =
            IntStream.range(0, 50)
                .mapToObj(i -> SsdRig.header(nextKey++, 0, 0, 4096, 2900))
                .toList();
        long[] taken = rig.write(headers);
        for (int i = 0; i < taken.length; i++) {
          held.put(taken[i], headers.get(i));
        }
      }
      long log = rig.engine.stats().headerBytes();
      assertThat(log).as("more than the first extents hold").isGreaterThan(8 * (256 << 10));
      resize(rig, 8 << 20);
      freeWhatLeaves(rig);
      awaitGivenBack(rig);
      assertThat(bytesOnDisk()).isLessThanOrEqualTo(8 << 20);
      checkHeld(rig);
    }
    try (SsdRig rig = open(8 << 20, false)) {
      afterRestart(rig);
      checkHeld(rig);
    }
  }

  /**
   * While the description cannot be written the log asks for an extent and is given one that lies
   * beyond the new end. All before that is held, and every header counts.
   */
  @Test
  void smaller_logIsShortOfRoomBeforeTheEnd_nobodyElseAsks_isGivenSome() throws Exception {
    int before = 24;
    int after = 19;
    int pagesOfTwoExtents = (int) (2 * EXTENT / SsdStore.PAGE_BYTES);
    CountDownLatch asked = new CountDownLatch(1);
    CountDownLatch goOn = new CountDownLatch(1);
    AtomicBoolean slow = new AtomicBoolean();
    IoFaults faults =
        (op, length) -> {
          if (slow.get() && op.isWrite() && op.file() == 0) {
            asked.countDown();
            await(goOn);
          }
          return length;
        };
    SsdOptions options = SsdRig.options(0, bytesOf(before), folder.resolve("a"));
    try (SsdRig rig = SsdRig.open(options, SsdRig.tuning().withFaults(faults))) {
      List<Long> slots = new ArrayList<>();
      for (int i = 0; i <= pagesOfTwoExtents; i++) {
        slots.add(rig.engine.allocate(SsdStore.PAGE_BYTES));
      }
      Set<Long> others = new HashSet<>();
      while (rig.engine.usedBytes() <= (after - 5) * EXTENT) {
        others.add(rig.engine.allocate(EXTENT));
      }
      rig.engine.prepareResize(bytesOf(after));
      slow.set(true);
      for (long slot : slots.subList(0, pagesOfTwoExtents)) {
        rig.await(rig.submitWrite(new long[] {slot}, List.of(aPageOfHeader())));
      }
      SsdJob last = rig.submitWrite(new long[] {slots.getLast()}, List.of(aPageOfHeader()));
      rig.until(() -> rig.engine.poll() == null && asked.getCount() == 0);
      rig.engine.resize(bytesOf(after));
      rig.engine.resizeOver();
      assertThat(rig.engine.shrinks()).as("all lies before the end").isFalse();
      goOn.countDown();
      rig.await(last);
      rig.until(() -> {
        others.stream()
            .filter(rig.engine::leaves)
            .toList()
            .forEach(slot -> {
              rig.engine.free(slot);
              others.remove(slot);
            });
        return rig.engine.poll() == null && rig.engine.surplusBytes() == 0;
      });
      assertThat(Files.size(folder.resolve("a/flexkv-ssd-0000.data"))).isEqualTo(after * EXTENT);
      assertThat(others).as("no more than the log needs").hasSizeGreaterThan(after - 10);
    }
  }

  private SlotHeader aPageOfHeader() {
    return SsdRig.header(nextKey++, 0, 0, SsdStore.PAGE_BYTES, 2900);
  }

  private static long bytesOf(int extents) {
    return extents * EXTENT + 2L * DirectoryMeta.BYTES;
  }

  private static void await(CountDownLatch latch) {
    try {
      assertThat(latch.await(20, TimeUnit.SECONDS)).isTrue();
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  @Test
  void larger_noRoomOnTheDisk_isRefusedAndNothingChanges() throws IOException {
    long tooMuch = Files.getFileStore(folder).getTotalSpace() + (1L << 30);
    assumeThat(tooMuch).as("what one folder may have").isLessThan(65_504L << 23);
    SsdOptions options = SsdRig.options(0, 80 << 20, folder.resolve("a"));
    Files.createDirectory(folder.resolve("b"));
    try (SsdRig rig = SsdRig.open(options, SsdTuning.defaults().withExtentBytes(8 << 20))) {
      fill(rig, 20, 0);
      long bytes = bytesOnDisk();
      assertThatThrownBy(() -> rig.engine.prepareResize(tooMuch))
          .isInstanceOf(IOException.class)
          .hasMessageMatching(
              "SSD directory .*/a needs [0-9.]+ GB more on .+, where [0-9.]+ are free. Remedy: "
                  + "flexkv set ssd_cache_gb=[0-9.]+ or less, or free some room there first");
      assertThat(bytesOnDisk()).isEqualTo(bytes);
      assertThat(rig.engine.capacityBytes()).isEqualTo(80 << 20);
      resize(rig, 100 << 20); // what was refused does not stand in the way
      fill(rig, 20, 0);
      checkHeld(rig);
    }
  }

  @Test
  void resize_aFolderCouldNotBeOpened_capacityIsWithoutItsShare() throws IOException {
    Path file = Files.createFile(folder.resolve("f"));
    SsdOptions options = SsdRig.options(0, 160 << 20, folder.resolve("a"), file);
    try (SsdRig rig = SsdRig.open(options, SsdTuning.defaults().withExtentBytes(8 << 20))) {
      assertThat(rig.engine.capacityBytes()).isEqualTo(80 << 20);
      fill(rig, 20, 0);
      resize(rig, 200 << 20);
      assertThat(rig.engine.capacityBytes()).isEqualTo(100 << 20);
      checkHeld(rig);
    }
  }

  @Test
  void prepared_butNotResized_isGivenBack() throws IOException {
    try (SsdRig rig = open(SMALL, true)) {
      fill(rig);
      long bytes = bytesOnDisk();
      rig.engine.prepareResize(LARGE);
      assertThat(bytesOnDisk()).isGreaterThan(bytes);
      rig.engine.resizeOver();
      awaitGivenBack(rig);
      assertThat(bytesOnDisk()).isEqualTo(bytes);
      checkHeld(rig);
    }
  }

  @Test
  void tooSmall_isRefusedWithASizeThatWorks() throws IOException {
    try (SsdRig rig = open(SMALL, false)) {
      assertThatThrownBy(() -> rig.engine.prepareResize(3 << 20))
          .hasMessage(
              "0.0031 GB cannot be while it serves. Remedy: flexkv set ssd_cache_gb=0.0045 or more,"
                  + " or restart the sidecar with another size");
      resize(rig, 4_500_000);
    }
  }

  @Test
  void refusedWhileASmallerSizeWaits_holdsNothingBack() throws IOException {
    try (SsdRig rig = open(LARGE, false)) {
      fill(rig);
      resize(rig, SMALL);
      assertThatThrownBy(() -> rig.engine.prepareResize(3 << 20)).hasMessageContaining("Remedy: ");
      freeWhatLeaves(rig);
      awaitGivenBack(rig);
    }
  }

  @Test
  void badSlotBeyondTheEnd_holdsNothingBack() throws IOException {
    try (SsdRig rig = open(LARGE, false)) {
      fill(rig);
      for (Map.Entry<Long, SlotHeader> block : held.entrySet()) {
        damage(rig, block.getKey());
        SsdEvent.Ended end = rig.read(block.getKey(), block.getValue().identity());
        assertThat(end.badSlot()).isEqualTo(block.getKey());
      }
      resize(rig, SMALL);
      freeWhatLeaves(rig);
      awaitGivenBack(rig);
      assertThat(bytesOnDisk()).isLessThanOrEqualTo(SMALL);
      assertThat(rig.engine.usedBytes()).isLessThanOrEqualTo(SMALL);
    }
  }

  private void damage(SsdRig rig, long slot) throws IOException {
    Path file = folder.resolve(rig.engine.directoryOf(slot) == 0 ? "a" : "b");
    try (var data = new RandomAccessFile(file.resolve("flexkv-ssd-0000.data").toFile(), "rw")) {
      data.seek(SlotNumber.offset(slot) + 5000);
      data.write(new byte[] {1, 2, 3, 4, 5, 6, 7, 8});
    }
  }

  /** A start looks for one file behind the last that it needs: the others go before that. */
  @Test
  void filesTooMany_oneCannotBeRemoved_theNextStartFindsThemStill() throws IOException {
    try (SsdRig rig = open(SMALL, true)) {
      fill(rig, 10, 0);
    }
    long bytes = bytesOnDisk();
    Path stuck = folder.resolve("a/flexkv-ssd-0003.data");
    Files.createFile(folder.resolve("a/flexkv-ssd-0002.data"));
    Files.createDirectory(folder.resolve("a/flexkv-ssd-0004.data"));
    Files.createFile(Files.createDirectory(stuck).resolve("file"));
    try (SsdRig rig = open(SMALL, true)) {
      checkHeldAfterRestart(rig);
      assertThat(folder.resolve("a/flexkv-ssd-0004.data")).doesNotExist();
      assertThat(folder.resolve("a/flexkv-ssd-0002.data")).exists();
    }
    Files.delete(stuck.resolve("file"));
    try (SsdRig rig = open(SMALL, true)) {
      checkHeldAfterRestart(rig);
      assertThat(stuck).doesNotExist();
      assertThat(bytesOnDisk()).isEqualTo(bytes);
    }
  }

  private void checkHeldAfterRestart(SsdRig rig) {
    afterRestart(rig);
    checkHeld(rig);
  }

  /** As a kill between the description and the files' end leaves it. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void filesLongerThanDescribed_areCutAtTheNextStart(boolean split) throws IOException {
    try (SsdRig rig = open(SMALL, split)) {
      fill(rig, 10, 0);
    }
    Path file = folder.resolve(split ? "a/flexkv-ssd-0002.data" : "a/flexkv-ssd-0000.data");
    long bytes = bytesOnDisk();
    try (var data = new RandomAccessFile(file.toFile(), "rw")) {
      data.setLength(data.length() + (4 << 20));
    }
    try (SsdRig rig = open(SMALL, split)) {
      afterRestart(rig);
      checkHeld(rig);
      assertThat(bytesOnDisk()).isEqualTo(bytes);
    }
  }
}
