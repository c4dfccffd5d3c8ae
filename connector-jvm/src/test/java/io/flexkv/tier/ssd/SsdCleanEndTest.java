package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.ffm.Errno;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What a stop notes of blocks that are being written just then. */
class SsdCleanEndTest {
  private static final int PAYLOAD = 16_000;
  private static final int STRIDE = 16_384;

  @TempDir Path folder;

  private volatile IoFaults faults = IoFaults.NONE;

  private SsdOptions options() {
    return SsdRig.options(0, 8 << 20, folder.resolve("a"));
  }

  private SsdRig open() throws IOException {
    return SsdRig.open(
        options(), SsdRig.tuning().withFaults((op, length) -> faults.permit(op, length)));
  }

  private DirectoryMeta described() throws IOException {
    return described("a");
  }

  private DirectoryMeta described(String directory) throws IOException {
    try (DirectoryFiles files = DirectoryFiles.openToExamine(folder.resolve(directory))) {
      return files.meta();
    }
  }

  /** Whether nobody has it any more, and its end was noted as a clean one. */
  private boolean endedCleanly(String directory) {
    try {
      return described(directory).clean;
    } catch (SsdInUseException e) {
      return false;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static void await(CountDownLatch latch) {
    try {
      assertThat(latch.await(20, TimeUnit.SECONDS)).isTrue();
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Waits for it, but not beyond that time. */
  private static void await(CountDownLatch latch, long deadline) {
    while (latch.getCount() > 0 && System.nanoTime() - deadline < 0) {
      LockSupport.parkNanos(1_000_000);
    }
  }

  private static void until(BooleanSupplier condition) {
    long deadline = System.nanoTime() + SsdRig.PATIENCE_NANOS;
    while (!condition.getAsBoolean()) {
      assertThat(System.nanoTime() - deadline).as("waited in vain").isNegative();
      Thread.onSpinWait();
    }
  }

  private static boolean isPayload(BlockOp op) {
    return op.isWrite() && op.urgency() == BlockOp.Urgency.WRITE;
  }

  @Test
  void endedCleanly_smallerAtTheNextStart_theEndIsToldAsItWas() throws IOException {
    try (SsdRig rig = open()) {
      rig.write(SsdRig.header(1, 0, 0, PAYLOAD));
      Files.createDirectory(folder.resolve("killed"));
      for (String file : List.of("flexkv-ssd.meta", "flexkv-ssd-0000.data")) {
        Files.copy(folder.resolve("a").resolve(file), folder.resolve("killed").resolve(file));
      }
    }
    assertThat(ending("a", 8 << 20)).isEqualTo("ended cleanly");
    assertThat(ending("a", 4 << 20)).isEqualTo("ended cleanly, is smaller now");
    assertThat(ending("killed", 4 << 20)).isEqualTo("did not end cleanly");
  }

  private String ending(String directory, long bytes) throws IOException {
    Path path = folder.resolve(directory);
    try (DirectoryFiles files =
        DirectoryFiles.open(path, bytes, 0, 256 << 10, new SplittableRandom(1))) {
      return DirectoryScan.ending(files);
    }
  }

  /** A block in the slot that another one had, whose header stays in the log. */
  private static void overwrite(SsdRig rig, SlotHeader before, SlotHeader after) {
    long slot = rig.write(before);
    rig.engine.free(slot);
    long again = rig.engine.allocate(PAYLOAD);
    assertThat(SlotNumber.offset(again)).isEqualTo(SlotNumber.offset(slot));
    rig.submitWrite(new long[] {again}, List.of(after));
  }

  @Test
  void close_payloadUnderWay_waitsForItsHeader() throws Exception {
    SlotHeader after = SsdRig.header(2, 0, 0, PAYLOAD);
    CountDownLatch goOn = new CountDownLatch(1);
    try (SsdRig rig = open()) {
      AtomicInteger payloads = new AtomicInteger();
      faults =
          (op, length) -> {
            if (isPayload(op) && payloads.incrementAndGet() == 2) {
              await(goOn);
            }
            return length;
          };
      overwrite(rig, SsdRig.header(1, 0, 0, PAYLOAD), after);
      until(() -> payloads.get() == 2);
      Thread closer = Thread.ofPlatform().start(rig.engine::close);
      until(() -> closer.getState() == Thread.State.TIMED_WAITING);
      goOn.countDown();
      closer.join();
    }
    assertThat(described().clean).isTrue();
    assertThat(described().doubtBelow).isZero();
    try (SsdRig rig = open()) {
      assertThat(rig.recovered.values()).containsExactly(after);
      long slot = rig.recovered.keySet().iterator().next();
      assertThat(rig.read(slot, after.identity()).ready()).isOne();
    }
  }

  /** One after the other, the one that stalls would have used up its time before it is asked. */
  @ParameterizedTest
  @ValueSource(ints = {0, 1})
  void close_oneOfTwoDisksStalls_theOtherNotesItsEndMeanwhile(int stalled) throws Exception {
    List<String> names = List.of("a", "b");
    SsdOptions both = SsdRig.options(0, 8 << 20, folder.resolve("a"), folder.resolve("b"));
    CountDownLatch begun = new CountDownLatch(1);
    CountDownLatch goOn = new CountDownLatch(1);
    IoFaults stall =
        (op, length) -> {
          if (isPayload(op)) {
            begun.countDown();
            await(goOn);
          }
          return length;
        };
    try (SsdRig rig = SsdRig.open(both, SsdRig.tuning().withFaults(stall))) {
      long slot;
      do {
        slot = rig.engine.allocate(PAYLOAD);
      } while (SlotNumber.directory(slot) != stalled);
      rig.submitWrite(new long[] {slot}, List.of(SsdRig.header(1, 0, 0, PAYLOAD)));
      await(begun);
      Thread closer = Thread.ofPlatform().start(rig.engine::close);
      until(() -> endedCleanly(names.get(1 - stalled)));
      goOn.countDown();
      closer.join();
    }
    assertThat(endedCleanly(names.get(stalled))).as("it had all its time").isTrue();
  }

  /**
   * The writer is held up where it has yet to tell anybody that the header is missing, until the
   * clean end is noted; or for a second, where the loss of the directory came before that write and
   * dropped it from the queue.
   */
  @Test
  void close_headerFailsMeanwhile_blocksBeforeAreInDoubt_notDamaged() throws Exception {
    SlotHeader before = SsdRig.header(1, 0, 0, PAYLOAD);
    CountDownLatch headerFails = new CountDownLatch(1);
    CountDownLatch noted = new CountDownLatch(1);
    AtomicInteger headers = new AtomicInteger();
    try (SsdRig rig = open()) {
      faults =
          (op, length) -> {
            if (op.urgency() != BlockOp.Urgency.META || headers.incrementAndGet() == 1) {
              return length; // of the first block
            }
            if (headers.get() == 2) {
              await(headerFails);
              long deadline = System.nanoTime() + 1_000_000_000;
              rig.onNews = () -> await(noted, deadline);
              return -Errno.EIO;
            }
            noted.countDown();
            return length;
          };
      overwrite(rig, before, SsdRig.header(2, 0, 0, PAYLOAD));
      until(() -> headers.get() == 2);
      Thread closer = Thread.ofPlatform().start(rig.engine::close);
      until(() -> closer.getState() == Thread.State.TIMED_WAITING);
      headerFails.countDown();
      closer.join();
    }
    assertMissIsStale(before);
  }

  private void assertMissIsStale(SlotHeader before) throws IOException {
    faults = IoFaults.NONE;
    try (SsdRig rig = open()) {
      assertThat(rig.recovered.values()).containsExactly(before);
      long slot = rig.recovered.keySet().iterator().next();
      assertThat(rig.read(slot, before.identity()).ready()).isZero();
      assertThat(rig.engine.stats().staleBlocks()).isOne();
      assertThat(rig.engine.stats().quarantinedBytes()).as("the disk is not to blame").isZero();
    }
  }

  /** As long as a header is on its way to the log, nobody may take the directory for quiet. */
  @Test
  void payloadWritten_headerNotInTheLogYet_directoryIsNotQuiet() throws IOException {
    Path path = folder.resolve("b");
    DirectoryFiles files =
        DirectoryFiles.open(path, 8 << 20, 0, 256 << 10, new SplittableRandom(1));
    SsdCounters counters = new SsdCounters();
    SsdDirectory directory =
        new SsdDirectory(0, files, options(), SsdRig.tuning(), counters, new Nobody());
    CountDownLatch begun = new CountDownLatch(1);
    try (Arena arena = Arena.ofShared()) {
      directory.start(new long[] {files.meta().directoryId}, begun::countDown);
      await(begun);
      directory.mayClean();
      long slot = directory.allocate(STRIDE);
      long address = arena.allocate(STRIDE, SsdStore.PAGE_BYTES).address();
      SlotHeader header = SsdRig.header(1, 0, 0, PAYLOAD);
      SsdJob job = SsdJob.write(1, new long[] {slot}, new long[] {address}, List.of(header));
      OpenJob open = new OpenJob(job, new Deaf(), 1);
      assertThat(directory.quiet()).isTrue();
      directory.reserve(1);
      directory.payloadQueued();
      synchronized (directory.log()) {
        SlotSpan span = directory.space().require(slot);
        directory.io().submit(BlockAccess.of(open, 0, directory, span, counters));
        until(SsdCleanEndTest::aWriterWaitsForTheLog);
        assertThat(directory.quiet()).isFalse();
      }
      until(() -> job.stored().get(0));
      until(directory::quiet);
      directory.close(SsdRig.PATIENCE_NANOS);
    }
  }

  private static boolean aWriterWaitsForTheLog() {
    return Thread.getAllStackTraces().keySet().stream()
        .anyMatch(thread ->
            thread.getName().matches("flexkv-ssd-0-\\d")
                && thread.getState() == Thread.State.BLOCKED);
  }

  private static final class Nobody implements SsdDirectory.Owner {
    @Override
    public void lost(SsdDirectory directory, String cause) {
      throw new AssertionError(cause);
    }

    @Override
    public void wakeUp() {
      // Nothing is to be done.
    }
  }

  private static final class Deaf implements OpenJob.News {
    @Override
    public void progress(OpenJob job) {
      // Nobody waits.
    }

    @Override
    public void ended(OpenJob job, SsdEvent.Ended event) {
      // Nobody waits.
    }

    @Override
    public void drained(OpenJob job) {
      // Nobody waits.
    }
  }
}
