package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Bytes on the disk that are not those that were written: all of them become misses. */
class SsdDamageTest {
  private static final int SECTOR = 512;
  private static final int PAYLOAD = 16_000;
  private static final int STRIDE = 16_384;

  /** Random bit flips; the long form asks for 10^6 by {@code -Dflexkv.ssd.flips=1000000}. */
  private static final int FLIPS = Integer.getInteger("flexkv.ssd.flips", 20_000);

  @TempDir Path folder;

  private static int damaged;
  private static int missed;

  @AfterEach
  void count() {
    System.out.printf("ssd damage: %d damaged, %d of them misses%n", damaged, missed);
  }

  private SsdOptions options() {
    return SsdRig.options(0, 8 << 20, folder.resolve("a"));
  }

  private SsdRig open() throws IOException {
    return SsdRig.open(options(), SsdRig.tuning());
  }

  private RandomAccessFile data() throws IOException {
    return new RandomAccessFile(folder.resolve("a").resolve("flexkv-ssd-0000.data").toFile(), "rw");
  }

  private static byte[] bytes(RandomAccessFile file, long at, int length) throws IOException {
    byte[] bytes = new byte[length];
    file.seek(at);
    file.readFully(bytes);
    return bytes;
  }

  private static void put(RandomAccessFile file, long at, byte[] bytes) throws IOException {
    file.seek(at);
    file.write(bytes);
    // Past the page cache others read: let them see it.
    file.getFD().sync();
  }

  private static void assertMiss(SsdRig rig, long slot, SlotHeader header) {
    damaged++;
    SsdEvent.Ended end = rig.read(slot, header.identity());
    assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
    assertThat(end.ready()).isZero();
    missed++;
  }

  /** Writes a block, damages its bytes, and wants a miss that leaves the slot unused. */
  private interface Damage {
    void apply(RandomAccessFile file, long offset) throws IOException;
  }

  private static void damage(SsdRig rig, RandomAccessFile file, int key, Damage how)
      throws IOException {
    SlotHeader header = SsdRig.header(key, 0, 0, PAYLOAD);
    long slot = rig.write(header);
    long offset = SlotNumber.offset(slot);
    byte[] whole = bytes(file, offset, STRIDE);
    how.apply(file, offset);
    assertMiss(rig, slot, header);
    put(file, offset, whole);
    // The slot is held for ever, also when its owner has given it back.
    long used = rig.engine.usedBytes();
    rig.engine.free(slot);
    assertThat(rig.engine.usedBytes()).isEqualTo(used);
  }

  @Test
  void slotCutAtEverySector_isAMiss() throws IOException {
    try (SsdRig rig = open();
        RandomAccessFile file = data()) {
      int sectors = PAYLOAD / SECTOR;
      for (int cut = 0; cut <= sectors; cut++) {
        int from = cut * SECTOR;
        // What was written before stays behind the cut: zeros, or another block's bytes.
        damage(
            rig,
            file,
            cut + 1,
            (f, offset) -> put(f, offset + from, new byte[Math.max(1, PAYLOAD - from)]));
      }
      assertThat(rig.engine.stats().corruptBlocks()).isEqualTo(sectors + 1);
      assertThat(rig.engine.stats().quarantinedBytes()).isEqualTo((sectors + 1L) * STRIDE);
    }
  }

  @Test
  void sectorsSwapped_withinASlotOrBetweenTwo_areMisses() throws IOException {
    try (SsdRig rig = open();
        RandomAccessFile file = data()) {
      for (int sector = 1; sector < 31; sector++) {
        int other = sector;
        damage(
            rig,
            file,
            sector,
            (f, offset) -> {
              byte[] first = bytes(f, offset, SECTOR);
              put(f, offset, bytes(f, offset + (long) other * SECTOR, SECTOR));
              put(f, offset + (long) other * SECTOR, first);
            });
      }
      List<SlotHeader> two =
          List.of(SsdRig.header(1001, 0, 0, PAYLOAD), SsdRig.header(1002, 0, 0, PAYLOAD));
      long[] slots = rig.write(two);
      byte[] a = bytes(file, SlotNumber.offset(slots[0]), STRIDE);
      byte[] b = bytes(file, SlotNumber.offset(slots[1]), STRIDE);
      put(file, SlotNumber.offset(slots[0]), b);
      put(file, SlotNumber.offset(slots[1]), a);
      assertMiss(rig, slots[0], two.get(0));
      assertMiss(rig, slots[1], two.get(1));
    }
  }

  @Test
  void blockOfAnOlderGeneration_inItsPlace_isAMiss() throws IOException {
    try (SsdRig rig = open();
        RandomAccessFile file = data()) {
      long slot = rig.write(SsdRig.header(1, 0, 0, PAYLOAD));
      byte[] old = bytes(file, SlotNumber.offset(slot), STRIDE);
      rig.engine.free(slot);
      SlotHeader now = SsdRig.header(1, 0, 1, PAYLOAD);
      long again = rig.write(now);
      assertThat(SlotNumber.offset(again)).isEqualTo(SlotNumber.offset(slot));
      put(file, SlotNumber.offset(again), old);
      assertMiss(rig, again, now);
    }
  }

  /** The folder of a directory whose process was killed with this block in it. */
  private Path killedWith(SlotHeader header) throws IOException {
    Path killed = Files.createDirectory(folder.resolve("killed"));
    try (SsdRig rig = open();
        DirectoryStream<Path> files = Files.newDirectoryStream(folder.resolve("a"))) {
      rig.write(header);
      for (Path file : files) {
        Files.copy(file, killed.resolve(file.getFileName())); // no clean end is noted in there
      }
    }
    return killed;
  }

  private static void tear(Path killed) throws IOException {
    Path data = killed.resolve("flexkv-ssd-0000.data");
    try (SsdRig rig = open(killed);
        RandomAccessFile file = new RandomAccessFile(data.toFile(), "rw")) {
      for (long slot : rig.recovered.keySet()) {
        put(file, SlotNumber.offset(slot) + SECTOR, new byte[SECTOR]);
      }
    }
  }

  private static SsdRig open(Path directory) throws IOException {
    return SsdRig.open(SsdRig.options(0, 8 << 20, directory), SsdRig.tuning());
  }

  @Test
  void blockTornByAKill_isNamedAsGone_andItsSlotIsOfUseAgain() throws IOException {
    SlotHeader header = SsdRig.header(1, 0, 0, PAYLOAD);
    Path killed = killedWith(header);
    tear(killed); // by a life that ends as it should, and never read the block
    for (int life = 0; life < 3; life++) { // its header stays in the log
      try (SsdRig rig = open(killed)) {
        long slot = rig.recovered.keySet().iterator().next();
        SsdEvent.Ended end = rig.read(slot, header.identity());
        assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
        assertThat(end.badSlot()).as("or the block stays, and is tried for ever").isEqualTo(slot);
        assertThat(rig.engine.stats().staleBlocks()).as("life %d", life).isOne();
        rig.engine.free(slot);
        assertThat(rig.engine.usedBytes()).as("the disk is not to blame").isZero();
      }
    }
  }

  @Test
  void blockOfALifeAfterAKill_isDamagedWhenItChanges_thoseBeforeAreNot() throws IOException {
    SlotHeader before = SsdRig.header(1, 0, 0, PAYLOAD);
    SlotHeader after = SsdRig.header(2, 0, 0, PAYLOAD);
    Path killed = killedWith(before);
    try (SsdRig rig = open(killed)) {
      rig.write(after);
    }
    for (int life = 0; life < 2; life++) { // what is in doubt stays so over clean ends
      tear(killed);
      try (SsdRig rig = open(killed)) {
        rig.recovered.forEach((slot, header) -> {
          boolean torn = rig.read(slot, header.identity()).outcome() == SsdEvent.Outcome.FAILED;
          assertThat(torn).isTrue();
        });
        assertThat(rig.engine.stats().corruptBlocks()).as("life %d", life).isEqualTo(2);
        assertThat(rig.engine.stats().staleBlocks()).as("life %d", life).isOne();
      }
    }
  }

  @Test
  void blockOfAKilledLife_onceVerified_isDamagedWhenItChanges() throws IOException {
    SlotHeader header = SsdRig.header(1, 0, 0, PAYLOAD);
    Path killed = killedWith(header);
    try (SsdRig rig = open(killed)) {
      long slot = rig.recovered.keySet().iterator().next();
      assertThat(rig.read(slot, header.identity()).outcome()).isEqualTo(SsdEvent.Outcome.DONE);
    }
    tear(killed);
    try (SsdRig rig = open(killed)) {
      rig.read(rig.recovered.keySet().iterator().next(), header.identity());
      assertThat(rig.engine.stats().corruptBlocks()).isOne();
      assertThat(rig.engine.stats().staleBlocks()).isZero();
    }
  }

  @Test
  void sameBytes_underAnotherIdentity_areAMiss() {
    // The checksum holds the identity, so bytes alone prove nothing.
    SlotIdentity identity = SsdRig.header(1, 0, 0, PAYLOAD).identity();
    SlotIdentity other = SsdRig.header(1, 0, 1, PAYLOAD).identity();
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment block = arena.allocate(PAYLOAD, SsdStore.PAGE_BYTES);
      assertThat(Checksums.ofBlock(identity.digest(), block.address(), PAYLOAD))
          .isNotEqualTo(Checksums.ofBlock(other.digest(), block.address(), PAYLOAD));
    }
  }

  @Test
  void randomBitFlips_areAllFound() {
    Random random = new Random(7);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment block = arena.allocate(PAYLOAD, SsdStore.PAGE_BYTES);
      SlotIdentity identity = SsdRig.header(1, 0, 0, PAYLOAD).identity();
      SsdRig.fillBlock(block.address(), identity);
      int sum = Checksums.ofBlock(identity.digest(), block.address(), PAYLOAD);
      for (int i = 0; i < FLIPS; i++) {
        int flips = 1 + random.nextInt(4);
        int[] bits = random.ints(flips, 0, PAYLOAD * 8).distinct().toArray();
        flip(block, bits);
        damaged++;
        assertThat(Checksums.ofBlock(identity.digest(), block.address(), PAYLOAD))
            .as("flips at %s", Arrays.toString(bits))
            .isNotEqualTo(sum);
        missed++;
        flip(block, bits);
      }
    }
  }

  private static void flip(MemorySegment block, int[] bits) {
    for (int bit : bits) {
      byte before = block.get(ValueLayout.JAVA_BYTE, bit / 8);
      block.set(ValueLayout.JAVA_BYTE, bit / 8, (byte) (before ^ 1 << bit % 8));
    }
  }

  @Test
  void headerPage_cutOrFlippedAnywhere_isNone() {
    Random random = new Random(8);
    MemorySegment page = MemorySegment.ofArray(new byte[SsdStore.PAGE_BYTES]);
    SlotSpan span = new SlotSpan(5, 1, 256 << 10, STRIDE, 3, 0);
    int at = 0;
    for (int i = 0; i < 12; i++) {
      SlotHeader header = SsdRig.header(i + 1, i, 0, PAYLOAD, i * 17);
      int length = HeaderRecord.length(header);
      HeaderRecord.encode(
          page.asSlice(HeaderPageDescriptor.RECORDS_OFFSET + at, length), header, span, i, 9, i);
      at += length;
    }
    HeaderPageDescriptor.seal(page, 42, 7, 5, 3, 12, at);
    assertThat(HeaderPageDescriptor.valid(page, 42, 5, 3)).isTrue();
    assertThat(HeaderPageDescriptor.valid(page, 43, 5, 3)).as("another directory").isFalse();
    assertThat(HeaderPageDescriptor.valid(page, 42, 6, 3)).as("another extent").isFalse();
    assertThat(HeaderPageDescriptor.valid(page, 42, 5, 4)).as("another place").isFalse();
    for (int cut = 0; cut < SsdStore.PAGE_BYTES; cut += SECTOR) {
      MemorySegment torn = MemorySegment.ofArray(page.toArray(ValueLayout.JAVA_BYTE));
      torn.asSlice(cut).fill((byte) 0);
      assertThat(HeaderPageDescriptor.valid(torn, 42, 5, 3)).as("cut at %d", cut).isFalse();
      damaged++;
      missed++;
    }
    for (int i = 0; i < FLIPS; i++) {
      int[] bit = {random.nextInt(SsdStore.PAGE_BYTES * 8)};
      flip(page, bit);
      assertThat(HeaderPageDescriptor.valid(page, 42, 5, 3)).as("bit %d", bit[0]).isFalse();
      flip(page, bit);
      damaged++;
      missed++;
    }
  }

  @Test
  void headerLogCutAtEverySector_losesWhatIsBehind_andNothingElseIsWrong() throws IOException {
    List<SlotHeader> headers =
        IntStream.range(0, 30).mapToObj(i -> SsdRig.header(i + 1, i, 0, PAYLOAD)).toList();
    try (SsdRig rig = open()) {
      headers.forEach(rig::write);
    }
    long log = firstPageOfLog();
    byte[] whole;
    try (RandomAccessFile file = data()) {
      whole = bytes(file, log, 30 * SsdStore.PAGE_BYTES);
    }
    int before = -1;
    List<Integer> cuts = new ArrayList<>();
    for (int cut = 0; cut < whole.length; cut += cut < 3 * SsdStore.PAGE_BYTES ? SECTOR : 12_800) {
      cuts.add(cut);
    }
    for (int cut : cuts) {
      try (RandomAccessFile file = data()) {
        byte[] torn = whole.clone();
        Arrays.fill(torn, cut, torn.length, (byte) 0);
        put(file, log, torn);
      }
      try (SsdRig rig = open()) {
        damaged++;
        assertThat(rig.recovered.size()).as("cut at %d", cut).isGreaterThanOrEqualTo(before);
        before = rig.recovered.size();
        rig.recovered.forEach(
            (slot, header) -> assertThat(rig.read(slot, header.identity()).ready()).isOne());
        assertThat(headers).containsAll(rig.recovered.values());
        missed++;
      }
    }
    assertThat(before).isBetween(20, 29);
  }

  /** Offset of the log's first extent: the first page of the file with the magic. */
  private long firstPageOfLog() throws IOException {
    try (RandomAccessFile file = data()) {
      for (long at = 0; at < file.length(); at += SsdStore.PAGE_BYTES) {
        if (new String(bytes(file, at, 8), java.nio.charset.StandardCharsets.US_ASCII)
            .equals("FKVHEAD1")) {
          return at;
        }
      }
    }
    throw new AssertionError("no header log");
  }
}
