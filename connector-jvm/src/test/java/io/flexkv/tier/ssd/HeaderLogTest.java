package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.ffm.DirectFile;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** When headers are written, on a disk that answers when it is told to, and without a clock. */
class HeaderLogTest {
  private static final int STRIDE = 16_384;

  @TempDir Path folder;

  private final Arena arena = Arena.ofShared();
  private final SlowDisk disk = new SlowDisk();
  private final List<Integer> committed = new ArrayList<>();
  private DirectoryFiles files;
  private DirectorySpace space;
  private HeaderLog log;

  /** Keeps what it is asked for. */
  private static final class SlowDisk implements BlockIo {
    final List<BlockOp> asked = new ArrayList<>();

    void answerOldest() {
      asked.removeFirst().done(0);
    }

    @Override
    public void submit(BlockOp op) {
      asked.add(op);
    }

    @Override
    public void useFiles(List<DirectFile> these) {}

    @Override
    public void dropQueued() {}

    @Override
    public long oldestNanos() {
      return Long.MAX_VALUE;
    }

    @Override
    public int inFlight() {
      return asked.size();
    }

    @Override
    public CompletableFuture<Void> registerMemory(List<MemorySegment> ranges) {
      return CompletableFuture.completedFuture(null);
    }

    @Override
    public String describe() {
      return "slow";
    }

    @Override
    public boolean close(long timeoutNanos) {
      return true;
    }
  }

  @BeforeEach
  void open() throws IOException {
    files = DirectoryFiles.open(folder.resolve("a"), 8 << 20, 0, 256 << 10, new Random(1));
    DirectoryMeta meta = files.meta();
    space =
        new DirectorySpace(
            0, meta.extents, meta.extentBytes, files.extentsPerFile(), () -> log.nextSequence(), 1);
    log = new HeaderLog(files, disk, space, arena, () -> {}, errno -> {});
    for (int extent = 0; extent < 4; extent++) {
      space.claimForLog(extent);
      log.grant(extent);
    }
  }

  @AfterEach
  void close() throws IOException {
    files.close();
    arena.close();
  }

  private void append(int key) {
    long slot = space.allocate(STRIDE);
    SlotSpan span = space.require(slot);
    SlotHeader header = SsdRig.header(key, 0, 0, STRIDE);
    log.append(
        header,
        span,
        span.indexOf(SlotNumber.offset(slot)),
        0,
        errno -> {
          assertThat(errno).isZero();
          committed.add(key);
        });
  }

  @Test
  void start_lastHeaderWhileAnotherIsWritten_followsItAtOnce() {
    append(1);
    log.start(true);
    append(2);
    log.start(true); // of the last payload: nobody will call again but the clock
    assertThat(disk.asked).as("one write at a time").hasSize(1);
    disk.answerOldest();
    assertThat(committed).containsExactly(1);
    assertThat(disk.asked).as("the next one has begun").hasSize(1);
    disk.answerOldest();
    assertThat(committed).containsExactly(1, 2);
    assertThat(log.quiet()).isTrue();
  }

  @Test
  void start_othersAreBeingWritten_gathersAgainAfterTheLast() {
    append(1);
    log.start(true);
    append(2);
    log.start(true);
    disk.answerOldest();
    append(3);
    log.start(false); // other payloads are on their way
    disk.answerOldest();
    assertThat(committed).containsExactly(1, 2);
    assertThat(disk.asked).as("it waits for theirs").isEmpty();
    append(4);
    log.start(true);
    disk.answerOldest();
    assertThat(committed).containsExactly(1, 2, 3, 4);
  }

  /** A header in a page of its own, with its key as checksum. */
  private void write(SlotSpan span, int index, int key) {
    log.append(SsdRig.header(key, 0, 0, STRIDE), span, index, key, errno -> {});
    log.start(true);
    disk.answerOldest();
  }

  /**
   * A slot with its older header in the first extent of the log and its later one in the second, of
   * which nothing else counts. The slot's span is gone.
   *
   * @param counting headers of the first extent that count
   */
  private void dissolveSpanOverTwoExtents(int counting) {
    long slot = space.allocate(STRIDE);
    SlotSpan gone = space.require(slot);
    SlotSpan others = space.require(space.allocate(4096));
    int pages = log.pagesPerExtent();
    write(gone, 0, 1);
    for (int page = 1; page < pages; page++) {
      write(others, page % counting, 10 + page);
    }
    write(gone, 0, 2);
    for (int page = 1; page < pages; page++) {
      write(others, others.slots - 1, 100 + page);
    }
    log.append(SsdRig.header(3, 0, 0, STRIDE), others, 0, 0, errno -> {});
    log.start(true); // has no room before something has been cleaned
    assertThat(disk.asked).isEmpty();
    log.dissolved(Objects.requireNonNull(space.free(slot)));
  }

  @Test
  void victim_laterHeaderOfADissolvedSpan_goesAfterTheOlderOne() {
    dissolveSpanOverTwoExtents(30);
    assertThat(Objects.requireNonNull(log.victim()).extent()).isZero();
    assertThat(log.headersMissing()).isFalse();
  }

  @Test
  void victim_olderHeaderWhereAllElseCounts_goesOutOfOrderInDoubt() {
    dissolveSpanOverTwoExtents(63);
    assertThat(Objects.requireNonNull(log.victim()).extent()).isOne();
    assertThat(log.headersMissing()).as("the older one counts now").isTrue();
  }

  /** As {@link #write} wrote it. */
  private HeaderRecord record(SlotSpan span, int index, int key) {
    MemorySegment bytes = arena.allocate(4096, 8);
    HeaderRecord.encode(bytes, SsdRig.header(key, 0, 0, STRIDE), span, index, key, 1);
    HeaderRecord record = new HeaderRecord();
    assertThat(record.wrap(bytes, 0)).isTrue();
    return record;
  }

  @Test
  void move_lastHeaderOfASlotThatWasGivenBack_staysSoThatNoOlderOneCounts() {
    long slot = space.allocate(STRIDE);
    SlotSpan span = space.require(slot);
    space.allocate(STRIDE); // so that the span stays
    write(span, 0, 1);
    write(span, 0, 2);
    assertThat(space.free(slot)).isNull();
    assertThat(log.move(record(span, 0, 1), log.pageNumber(0, 0), errno -> {})).isFalse();
    assertThat(log.move(record(span, 0, 2), log.pageNumber(0, 1), errno -> {})).isTrue();
  }

  @Test
  void move_overtakenInItsOwnPage_isNotMoved() {
    SlotSpan span = space.require(space.allocate(STRIDE));
    for (int key = 1; key <= 2; key++) {
      log.append(SsdRig.header(key, 0, 0, STRIDE), span, 0, key, errno -> {});
    }
    log.start(true);
    disk.answerOldest();
    assertThat(log.move(record(span, 0, 1), log.pageNumber(0, 0), errno -> {})).isFalse();
    assertThat(log.move(record(span, 0, 2), log.pageNumber(0, 0), errno -> {})).isTrue();
  }

  @Test
  void move_overtakenBeforeItWasWritten_isNotWritten() {
    SlotSpan span = space.require(space.allocate(STRIDE));
    write(span, 0, 1);
    HeaderRecord first = record(span, 0, 1);
    log.append(SsdRig.header(2, 0, 0, STRIDE), span, 0, 0, errno -> committed.add(2));
    log.start(true);
    assertThat(log.move(first, log.pageNumber(0, 0), errno -> committed.add(1))).isTrue();
    disk.answerOldest();
    assertThat(committed).containsExactly(2, 1);
    assertThat(disk.asked).as("it would look newer than what overtook it").isEmpty();
    assertThat(span.headerPage(0)).isEqualTo(log.pageNumber(0, 1));
  }
}
