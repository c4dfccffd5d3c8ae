package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.flexkv.ffm.Errno;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What comes back after an end, and what must not. */
class SsdRecoveryTest {
  private static final long CAPACITY = 16 << 20;
  private static final long EXTENT = 256 << 10;

  @TempDir Path folder;

  private SsdOptions options() {
    return SsdRig.options(0, CAPACITY, folder.resolve("a"));
  }

  private SsdOptions two() {
    return SsdRig.options(0, CAPACITY, folder.resolve("a"), folder.resolve("b"));
  }

  private static SsdRig open(SsdOptions options) throws IOException {
    return SsdRig.open(options, SsdRig.tuning());
  }

  private static List<SlotHeader> chain(int firstKey, int blocks, int eventBytes) {
    return IntStream.range(0, blocks)
        .mapToObj(
            i -> SsdRig.header(firstKey + i, i == 0 ? 0 : firstKey + i - 1, 0, 30_000, eventBytes))
        .toList();
  }

  private static Set<Long> keys(SsdRig rig) {
    return rig.recovered.values().stream()
        .map(header -> header.identity().keyLo())
        .collect(Collectors.toSet());
  }

  private static void readAll(SsdRig rig) {
    rig.recovered.forEach(
        (slot, header) -> assertThat(rig.read(slot, header.identity()).ready()).isOne());
  }

  @Test
  void headers_comeBackAsTheyWere_parentsFirst() throws IOException {
    List<SlotHeader> headers = new ArrayList<>(chain(1, 50, 333));
    headers.addAll(chain(1000, 50, 0));
    try (SsdRig rig = open(two())) {
      rig.write(headers);
    }
    try (SsdRig rig = open(two())) {
      assertThat(rig.recovered.values()).containsExactlyInAnyOrderElementsOf(headers);
      Set<Long> seen = new HashSet<>();
      for (SlotHeader header : rig.recovered.values()) {
        assertThat(!header.hasParent() || seen.contains(header.parentLo()))
            .as("parent of %s first", header)
            .isTrue();
        seen.add(header.identity().keyLo());
      }
      assertThat(rig.report.taken()).isEqualTo(100);
      assertThat(rig.engine.usedBytes()).isEqualTo(100 * 32768);
      readAll(rig);
    }
  }

  @Test
  void parentsWrittenAfterTheirChildren_stillComeFirst() throws IOException {
    List<SlotHeader> headers = chain(1, 40, 0);
    try (SsdRig rig = open(options())) {
      for (int i = headers.size() - 1; i >= 0; i--) {
        rig.write(headers.get(i));
      }
    }
    try (SsdRig rig = open(options())) {
      assertThat(List.copyOf(rig.recovered.values())).isEqualTo(headers);
    }
  }

  @Test
  void parentsFarBehindTheirChildren_moreThanMayWait_comeFirstAllTheSame() throws IOException {
    List<SlotHeader> headers = chain(1, 40, 700);
    try (SsdRig rig = open(two())) {
      for (int i = headers.size() - 1; i >= 0; i--) {
        rig.write(headers.get(i));
      }
      rig.write(SsdRig.header(500, 499, 0, 30_000));
    }
    // Three of them fill it, so the logs are read again and again.
    SsdTuning tuning = SsdRig.tuning().withWaitingBytes(3_500);
    try (SsdRig rig = SsdRig.open(two(), tuning)) {
      assertThat(List.copyOf(rig.recovered.values())).isEqualTo(headers);
      assertThat(rig.report.dropped()).as("without a parent").isOne();
      assertThat(rig.engine.usedBytes()).isEqualTo(40 * 32768);
      readAll(rig);
    }
  }

  @Test
  void logOfManyBlocks_aFewRootsBehindThem_allComeBack() throws IOException {
    Path directory = folder.resolve("many");
    int blocks = 60_000;
    long capacity = SyntheticDirectory.make(directory, blocks, SsdStore.PAGE_BYTES, 40, true);
    // Only the pages of those two chains are read again, far apart.
    SsdTuning tuning = SsdTuning.defaults().withWaitingBytes(10_000);
    try (SsdRig rig = SsdRig.open(SsdRig.options(8, capacity, directory), tuning)) {
      assertThat(rig.recovered).hasSize(blocks);
      assertThat(rig.report.taken()).isEqualTo(blocks);
      assertThat(rig.report.dropped()).isZero();
      assertThat(rig.engine.usedBytes()).isEqualTo((long) blocks * SsdStore.PAGE_BYTES);
      long log = blocks / 24L * SsdStore.PAGE_BYTES;
      long scanned = 6L * (4 << 20); // whole extents, the empty ones too
      assertThat(rig.report.headerBytes() - scanned).isBetween(log, log * 3 / 2);
    }
  }

  @Test
  void children_whoseParentIsGone_doNotCome_andAreFreed() throws IOException {
    List<SlotHeader> headers = chain(1, 10, 0);
    try (SsdRig rig = open(options())) {
      rig.write(headers.subList(0, 4));
      rig.write(headers.subList(5, 10));
    }
    try (SsdRig rig = open(options())) {
      assertThat(keys(rig)).containsExactlyInAnyOrder(1L, 2L, 3L, 4L);
      assertThat(rig.engine.usedBytes()).isEqualTo(4 * 32768);
    }
  }

  @Test
  void declined_isFreed() throws IOException {
    try (SsdRig rig = open(options())) {
      rig.write(chain(1, 20, 0));
    }
    try (SsdRig rig =
        SsdRig.open(options(), SsdRig.tuning(), s -> s.header().identity().keyLo() <= 5)) {
      assertThat(rig.engine.usedBytes()).isEqualTo(5 * 32768);
      assertThat(rig.report.offered()).isEqualTo(6);
      assertThat(rig.report.taken()).isEqualTo(5);
      assertThat(rig.report.dropped()).as("below the one that was declined").isEqualTo(14);
    }
  }

  @Test
  void overwrittenSlot_hasTheLaterBlockOnly() throws IOException {
    try (SsdRig rig = open(options())) {
      long slot = rig.write(SsdRig.header(1, 0, 0, 30_000));
      rig.engine.free(slot);
      long again = rig.write(SsdRig.header(2, 0, 0, 30_000));
      assertThat(SlotNumber.offset(again)).isEqualTo(SlotNumber.offset(slot));
    }
    try (SsdRig rig = open(options())) {
      assertThat(keys(rig)).containsExactly(2L);
      readAll(rig);
    }
  }

  @Test
  void sameBlockTwice_comesOnce() throws IOException {
    try (SsdRig rig = open(options())) {
      rig.write(SsdRig.header(1, 0, 0, 30_000));
      rig.write(SsdRig.header(1, 0, 0, 30_000));
    }
    try (SsdRig rig = open(options())) {
      assertThat(rig.recovered).hasSize(1);
      assertThat(rig.engine.usedBytes()).isEqualTo(32768);
    }
  }

  @Test
  void extentsCutAnew_holdTheLaterSlotsOnly() throws IOException {
    List<SlotHeader> small = new ArrayList<>();
    List<SlotHeader> large = new ArrayList<>();
    try (SsdRig rig = open(options())) {
      List<Long> slots = new ArrayList<>();
      for (int key = 1; ; key++) {
        long slot = rig.engine.allocate(60_000);
        if (slot == SsdStore.FULL) {
          break;
        }
        SlotHeader header = SsdRig.header(key, 0, 0, 60_000);
        rig.await(rig.submitWrite(new long[] {slot}, List.of(header)));
        small.add(header);
        slots.add(slot);
      }
      slots.subList(0, slots.size() / 2).forEach(rig.engine::free);
      long slot;
      for (int key = 5000; (slot = rig.engine.allocate(200_000)) != SsdStore.FULL; key++) {
        SlotHeader header = SsdRig.header(key, 0, 0, 200_000);
        rig.await(rig.submitWrite(new long[] {slot}, List.of(header)));
        large.add(header);
      }
    }
    assertThat(large).hasSizeGreaterThan(10);
    try (SsdRig rig = open(options())) {
      assertThat(rig.recovered.values()).containsAll(large);
      assertThat(rig.recovered.values()).containsAll(small.subList(small.size() / 2, small.size()));
      readAll(rig);
    }
  }

  @Test
  void reset_survivesARestart_andWhatIsWrittenAfterItToo() throws IOException {
    try (SsdRig rig = open(two())) {
      rig.write(chain(1, 10, 0));
      rig.engine.resetNamespace(SsdRig.NAMESPACE_HI, SsdRig.NAMESPACE_LO, 1);
      SsdEvent.ResetDone done = rig.await(SsdEvent.ResetDone.class);
      assertThat(done.durable()).isTrue();
      assertThat(done.generation()).isEqualTo(1);
      assertThat(generationsInBothCopies()).containsOnly(1);
      rig.write(SsdRig.header(77, 0, 1, 30_000));
    }
    try (SsdRig rig = open(two())) {
      assertThat(keys(rig)).containsExactly(77L);
      assertThat(rig.engine.generation(SsdRig.NAMESPACE_HI, SsdRig.NAMESPACE_LO)).isOne();
      assertThat(rig.engine.usedBytes()).isEqualTo(32768);
      readAll(rig);
    }
  }

  /** Of both copies in both directories. */
  private List<Integer> generationsInBothCopies() throws IOException {
    List<Integer> found = new ArrayList<>();
    for (String name : List.of("a", "b")) {
      byte[] meta = Files.readAllBytes(folder.resolve(name).resolve("flexkv-ssd.meta"));
      for (int copy = 0; copy < 2; copy++) {
        DirectoryMeta decoded =
            DirectoryMeta.decode(
                MemorySegment.ofArray(meta)
                    .asSlice((long) copy * DirectoryMeta.BYTES, DirectoryMeta.BYTES));
        found.add(
            decoded.generations.get(
                new DirectoryMeta.Digest(SsdRig.NAMESPACE_HI, SsdRig.NAMESPACE_LO)));
      }
    }
    return found;
  }

  @Test
  void moreNamespacesThanAreNoted_loseWhatWasStored_neverServeIt() throws IOException {
    try (SsdRig rig = open(options())) {
      rig.write(SsdRig.header(1, 0, 0, 30_000));
      rig.engine.resetNamespace(SsdRig.NAMESPACE_HI, SsdRig.NAMESPACE_LO, 1);
      for (int i = 0; i < DirectoryMeta.MAX_NAMESPACES; i++) {
        rig.engine.resetNamespace(i, i, 1);
      }
      for (int i = 0; i <= DirectoryMeta.MAX_NAMESPACES; i++) {
        assertThat(rig.await(SsdEvent.ResetDone.class).durable()).isTrue();
      }
      rig.write(SsdRig.header(2, 0, 1, 30_000));
    }
    try (SsdRig rig = open(options())) {
      assertThat(keys(rig)).containsExactly(2L);
    }
  }

  @Test
  void directoryThatWentAlone_isDropped_forItMayHaveMissedAReset() throws IOException {
    try (SsdRig rig = open(two())) {
      // Without parents, so that nothing but the missing directory can be the reason.
      rig.write(IntStream.range(0, 10).mapToObj(i -> SsdRig.header(i + 1, 0, 0, 30_000)).toList());
    }
    try (SsdRig rig = open(SsdRig.options(0, CAPACITY / 2, folder.resolve("b")))) {
      assertThat(rig.recovered).isEmpty();
      assertThat(rig.engine.usedBytes()).isZero();
    }
  }

  @Test
  void moreCapacity_keepsWhatIsThere_lessWhatLiesBeforeItsEnd() throws IOException {
    try (SsdRig rig = open(options())) {
      rig.write(chain(1, 20, 0));
    }
    SsdOptions more = SsdRig.options(0, 2 * CAPACITY, folder.resolve("a"));
    try (SsdRig rig = open(more)) {
      assertThat(rig.recovered).hasSize(20);
      readAll(rig);
      long[] slots = new long[60];
      for (int i = 0; i < slots.length; i++) {
        slots[i] = rig.engine.allocate(300_000);
      }
      assertThat(slots).doesNotContain(SsdStore.FULL);
    }
    try (SsdRig rig = open(options())) {
      assertThat(rig.recovered).hasSize(20);
      readAll(rig);
      assertThat(Files.size(folder.resolve("a/flexkv-ssd-0000.data"))).isLessThan(CAPACITY);
    }
    Path a = folder.resolve("a");
    try (SsdRig rig = open(new SsdOptions(List.of(a), CAPACITY, 4 << 20, 0, 0, 4, 0))) {
      assertThat(rig.recovered).as("of another geometry").isEmpty();
      rig.write(chain(1, 3, 0));
    }
  }

  /** A disk that fails at one start only. The pages of the life before are not all written anew. */
  @Test
  void headersThatCouldNotBeRead_comeBackWhenTheyCan_loseToThoseWrittenMeanwhile()
      throws IOException {
    try (SsdRig rig = open(options())) {
      chain(1, 20, 0).forEach(header -> rig.write(List.of(header))); // each in a page of its own
    }
    List<SlotHeader> meanwhile = chain(100, 18, 0);
    AtomicBoolean fails = new AtomicBoolean(true);
    IoFaults faults =
        (op, length) ->
            fails.get() && !op.isWrite() && op.urgency() == BlockOp.Urgency.META
                ? -Errno.EIO
                : length;
    try (SsdRig rig = SsdRig.open(options(), SsdRig.tuning().withFaults(faults))) {
      fails.set(false);
      assertThat(rig.recovered).isEmpty();
      rig.write(meanwhile); // in a few pages
    }
    try (SsdRig rig = open(options())) {
      assertThat(rig.recovered.values()).containsExactlyInAnyOrderElementsOf(meanwhile);
      readAll(rig);
      assertThat(rig.engine.stats().corruptBlocks()).isZero();
    }
  }

  /** Of the headers of a slot the last one is in an extent that cannot be read. */
  @Test
  void laterHeaderCannotBeRead_slotIsInDoubt_notDamaged() throws IOException {
    int pages = (int) (EXTENT / SsdStore.PAGE_BYTES);
    try (SsdRig rig = open(options())) {
      long slot = rig.write(SsdRig.header(1, 0, 0, 30_000));
      for (int i = 1; i < pages; i++) {
        rig.write(SsdRig.header(10 + i, 0, 0, 30_000)); // all count: nothing is cleaned
      }
      rig.engine.free(slot);
      long again = rig.write(SsdRig.header(2, 0, 0, 30_000));
      assertThat(SlotNumber.offset(again))
          .as("free is no other")
          .isEqualTo(SlotNumber.offset(slot));
    }
    IoFaults faults =
        (op, length) ->
            !op.isWrite() && op.urgency() == BlockOp.Urgency.META && op.at() >= EXTENT
                ? -Errno.EIO
                : length;
    try (SsdRig rig = SsdRig.open(options(), SsdRig.tuning().withFaults(faults))) {
      assertThat(rig.recovered).hasSize(pages);
      int gone = 0;
      for (Map.Entry<Long, SlotHeader> found : rig.recovered.entrySet()) {
        gone += rig.read(found.getKey(), found.getValue().identity()).ready() == 0 ? 1 : 0;
      }
      assertThat(gone).isOne();
      assertThat(rig.engine.stats().staleBlocks()).isOne();
      assertThat(rig.engine.stats().quarantinedBytes()).isZero();
    }
  }

  /** The log's last extents lie beyond the end of a smaller share. */
  @Test
  void smallerShare_numbersOfLostHeaders_areNotGivenOutAnew() throws IOException {
    try (SsdRig rig = open(options())) {
      List<SlotHeader> all = new ArrayList<>();
      for (int i = 0; i < 500; i++) {
        all.add(SsdRig.header(1 + i, 0, 0, 4096, 2900));
      }
      long filler = rig.engine.allocate(8 << 20);
      assertThat(filler).isPositive();
      rig.write(all);
    }
    DirectoryMeta before = described();
    assertThat(before.logExtents.length()).isGreaterThan(32);
    try (SsdRig rig = open(SsdRig.options(0, CAPACITY / 2, folder.resolve("a")))) {
      rig.write(SsdRig.header(1000, 0, 0, 4096));
    }
    assertThat(described().sequences).isGreaterThan(before.sequences);
    assertThat(described().uses).isGreaterThan(before.uses);
  }

  private DirectoryMeta described() throws IOException {
    try (DirectoryFiles files = DirectoryFiles.openToExamine(folder.resolve("a"))) {
      return files.meta();
    }
  }

  @Test
  void moreThanTheDiskHas_isRefusedAndTakesNothing() throws IOException {
    Path directory = folder.resolve("a");
    long tooMuch = Files.getFileStore(folder).getTotalSpace() + (1L << 30);
    assumeThat(tooMuch).as("what one folder may have").isLessThan(8L << 40);
    assertThatThrownBy(
            () -> SsdRig.open(SsdRig.options(0, tooMuch, directory), SsdTuning.defaults()))
        .hasMessageContaining("SSD directory " + directory + " needs ")
        .hasMessageContaining("make ssd_cache_gb smaller, or free some room");
    assertThat(directory).as("nothing is left behind").doesNotExist();
    Files.createDirectory(directory);
    assertThatThrownBy(
            () -> SsdRig.open(SsdRig.options(0, tooMuch, directory), SsdTuning.defaults()))
        .hasMessageContaining(" GB more, its disk has ");
    assertThat(directory).isEmptyDirectory();
    try (SsdRig rig = open(options())) {
      rig.write(chain(1, 3, 0));
    }
  }

  @Test
  void fileInTheFoldersPlace_isNamed() throws IOException {
    Files.createFile(folder.resolve("a"));
    assertThatThrownBy(() -> open(options()))
        .hasMessageContaining(folder.resolve("a") + " is not a folder: name one in ssd_cache_dir");
  }

  @Test
  void otherFormat_orLostFile_isACleanDrop() throws IOException {
    Path a = folder.resolve("a");
    try (SsdRig rig = open(options())) {
      rig.write(chain(1, 20, 0));
    }
    Files.delete(a.resolve("flexkv-ssd-0000.data"));
    try (SsdRig rig = open(options())) {
      assertThat(rig.recovered).isEmpty();
      rig.write(chain(1, 20, 0));
    }
    try (FileChannel meta =
        FileChannel.open(a.resolve("flexkv-ssd.meta"), StandardOpenOption.WRITE)) {
      // Another magic stands for whatever this version does not know.
      for (long copy = 0; copy < 2; copy++) {
        meta.write(ByteBuffer.wrap(new byte[] {1, 2, 3}), copy * DirectoryMeta.BYTES);
      }
    }
    try (SsdRig rig = open(options())) {
      assertThat(rig.recovered).isEmpty();
      rig.write(chain(1, 20, 0));
    }
    try (SsdRig rig = open(options())) {
      assertThat(rig.recovered).hasSize(20);
    }
  }

  @Test
  void oneDamagedDescription_isOutvotedByTheOther() throws IOException {
    for (long copy = 0; copy < 2; copy++) {
      try (SsdRig rig = open(options())) {
        rig.write(chain(1, 5, 0));
        rig.engine.resetNamespace(1, 1, 5);
        rig.await(SsdEvent.ResetDone.class);
      }
      try (FileChannel meta =
          FileChannel.open(
              folder.resolve("a").resolve("flexkv-ssd.meta"), StandardOpenOption.WRITE)) {
        meta.write(ByteBuffer.wrap(new byte[] {1}), copy * DirectoryMeta.BYTES + 40_000);
      }
      try (SsdRig rig = open(options())) {
        assertThat(rig.recovered).hasSize(5);
        assertThat(rig.engine.generation(1, 1)).isEqualTo(5);
      }
    }
  }
}
