package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.ffm.Errno;
import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Disks that fail, fill up, hang or vanish: step by step less cache, never a hang. */
class SsdFaultTest {
  private static final long CAPACITY = 16 << 20;
  private static final long STALL_NANOS = TimeUnit.MILLISECONDS.toNanos(100);

  @TempDir Path folder;

  private volatile IoFaults faults = IoFaults.NONE;

  private SsdOptions two(int ring) {
    return SsdRig.options(ring, CAPACITY, folder.resolve("a"), folder.resolve("b"));
  }

  private SsdRig open(SsdOptions options) throws IOException {
    SsdTuning tuning =
        SsdRig.tuning()
            .withStallNanos(STALL_NANOS)
            .withFaults((op, length) -> faults.permit(op, length));
    return SsdRig.open(options, tuning);
  }

  private static List<SlotHeader> headers(int firstKey, int count) {
    return IntStream.range(0, count)
        .mapToObj(i -> SsdRig.header(firstKey + i, 0, 0, 20_000))
        .toList();
  }

  private static List<SlotIdentity> identities(List<SlotHeader> headers) {
    return headers.stream().map(SlotHeader::identity).toList();
  }

  /** Slots of both directories, in turns. */
  private static long[] allocate(SsdRig rig, int count) {
    long[] slots = new long[count];
    for (int i = 0; i < count; i++) {
      slots[i] = rig.engine.allocate(20_000);
      assertThat(slots[i]).isPositive();
    }
    return slots;
  }

  /** Fails payload accesses in the directory of one slot only: files are told apart by thread. */
  private static IoFaults inDirectory(int directory, boolean write, int errno) {
    return (op, length) ->
        op.isWrite() == write
                && op.urgency() != BlockOp.Urgency.META
                && Thread.currentThread().getName().startsWith("flexkv-ssd-" + directory)
            ? -errno
            : length;
  }

  @ParameterizedTest
  @ValueSource(ints = {Errno.ENOSPC, Errno.EIO, Errno.EROFS})
  void failedWrite_takesItsDirectoryOut_theOtherGoesOn(int errno) throws IOException {
    try (SsdRig rig = open(two(0))) {
      long[] slots = allocate(rig, 8);
      faults = inDirectory(0, true, errno);
      SsdEvent.Ended end = rig.await(rig.submitWrite(slots, headers(1, 8)));
      assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
      SsdEvent.DirectoryLost lost =
          rig.events.stream()
              .filter(SsdEvent.DirectoryLost.class::isInstance)
              .map(SsdEvent.DirectoryLost.class::cast)
              .findFirst()
              .orElseGet(() -> rig.await(SsdEvent.DirectoryLost.class));
      assertThat(lost.directory()).isZero();
      assertThat(lost.cause()).contains(Errno.describe(errno));
      assertThat(rig.engine.directories().get(0).state()).isEqualTo(SsdStore.State.LOST);
      assertThat(rig.engine.directories().get(0).cause()).isNotNull();

      // From now on all slots are in the other one.
      List<SlotHeader> more = headers(100, 6);
      long[] there = rig.write(more);
      for (long slot : there) {
        assertThat(rig.engine.directoryOf(slot)).isEqualTo(1);
      }
      assertThat(rig.read(there, identities(more)).ready()).isEqualTo(6);
      // A job that needs the lost one is refused at once.
      SsdJob job = rig.readJob(slots, identities(headers(1, 8)), SsdJob.NO_DEADLINE);
      assertThat(rig.engine.submit(job)).isFalse();
    }
  }

  @Test
  void attachingAgain_failed_saysWhyAndMayBeTriedAgain() throws IOException {
    Path a = folder.resolve("a");
    Path away = folder.resolve("away");
    try (SsdRig rig = open(two(0))) {
      long[] slots = allocate(rig, 4);
      faults = inDirectory(0, true, Errno.EIO);
      rig.await(rig.submitWrite(slots, headers(1, 4)));
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.LOST);
      for (long slot : slots) {
        rig.engine.free(slot);
      }
      rig.engine.forgotten(0);
      faults = IoFaults.NONE;
      Files.move(a, away);
      Files.createFile(a);
      for (int i = 0; i < 2; i++) {
        rig.until(() -> rig.engine.reattach(a));
        rig.until(() -> !rig.engine.directories().get(0).attaching());
        assertThat(rig.engine.directories().get(0).state()).isEqualTo(SsdStore.State.LOST);
        assertThat(rig.engine.directories().get(0).cause())
            .contains("could not be attached again")
            .contains(a + " is not a folder");
      }
      Files.delete(a);
      Files.move(away, a);
      rig.until(() -> rig.engine.reattach(a));
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.SERVING);
      List<SlotHeader> headers = headers(50, 8);
      long[] again = allocate(rig, 8);
      assertThat(rig.await(rig.submitWrite(again, headers)).outcome())
          .isEqualTo(SsdEvent.Outcome.DONE);
      assertThat(rig.read(again, identities(headers)).ready()).isEqualTo(8);
    }
  }

  @Test
  void lostDirectory_canBeAttachedAgain_whenItsSlotsAreFree() throws IOException {
    Path a = folder.resolve("a");
    try (SsdRig rig = open(two(0))) {
      long[] slots = allocate(rig, 4);
      assertThat(rig.engine.reattach(a)).as("serves").isFalse();
      faults = inDirectory(0, true, Errno.EIO);
      rig.await(rig.submitWrite(slots, headers(1, 4)));
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.LOST);
      assertThat(rig.engine.reattach(a)).as("slots are held").isFalse();
      for (long slot : slots) {
        rig.engine.free(slot);
      }
      assertThat(rig.engine.reattach(a)).as("is being forgotten").isFalse();
      rig.engine.forgotten(0);
      faults = IoFaults.NONE;
      rig.until(() -> rig.engine.reattach(a));
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.SERVING);
      long[] again = allocate(rig, 8);
      List<SlotHeader> headers = headers(50, 8);
      assertThat(rig.await(rig.submitWrite(again, headers)).outcome())
          .isEqualTo(SsdEvent.Outcome.DONE);
      assertThat(rig.read(again, identities(headers)).ready()).isEqualTo(8);
      assertThat(again).doesNotContain(slots);
    }
    try (SsdRig rig = open(two(0))) {
      assertThat(rig.recovered).hasSize(8);
    }
  }

  @Test
  void allDirectoriesLost_everythingIsFull_nothingHangs() throws IOException {
    try (SsdRig rig = open(two(0))) {
      faults = (op, length) -> op.isWrite() ? -Errno.EIO : length;
      for (int directories = 2; directories > 0; directories--) {
        long[] slots = {rig.engine.allocate(20_000)};
        SsdEvent.Ended end = rig.await(rig.submitWrite(slots, headers(directories, 1)));
        assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
        int lost = rig.engine.directoryOf(slots[0]);
        rig.until(() -> rig.engine.directories().get(lost).state() == SsdStore.State.LOST);
      }
      assertThat(rig.engine.allocate(4096)).isEqualTo(SsdStore.FULL);
      rig.engine.resetNamespace(1, 2, 3);
      SsdEvent.ResetDone done = rig.await(SsdEvent.ResetDone.class);
      assertThat(done.durable()).as("a reset that nobody noted").isFalse();
      assertThat(done.cause()).isNotNull();
    }
  }

  @Test
  void fewReadErrors_areMisses_manyTakeTheDirectoryOut() throws IOException {
    try (SsdRig rig = open(SsdRig.options(0, CAPACITY, folder.resolve("a")))) {
      List<SlotHeader> headers = headers(1, 4);
      long[] slots = rig.write(headers);
      faults = inDirectory(0, false, Errno.EIO);
      int limit = SsdTuning.defaults().maxReadErrors();
      for (int i = 0; i < limit; i++) {
        SsdEvent.Ended end = rig.read(slots[0], headers.get(0).identity());
        assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
        assertThat(end.cause()).contains("EIO");
        assertThat(end.badSlot()).as("not to be tried for ever").isEqualTo(slots[0]);
      }
      assertThat(rig.engine.directories().get(0).state()).isEqualTo(SsdStore.State.SERVING);
      rig.read(slots[0], headers.get(0).identity());
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.LOST);
      assertThat(rig.engine.stats().readErrors()).isEqualTo(limit + 1);
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 8})
  void stalledDisk_neverDelaysAReadPastItsDeadline(int ring) throws Exception {
    CountDownLatch released = new CountDownLatch(1);
    try (SsdRig rig = open(SsdRig.options(ring, CAPACITY, folder.resolve("a")));
        AutoCloseable release = released::countDown) {
      assertThat(release).isNotNull();
      List<SlotHeader> headers = headers(1, 30);
      long[] slots = rig.write(headers);
      AtomicInteger passed = new AtomicInteger();
      faults =
          (op, length) -> {
            if (op.urgency() == BlockOp.Urgency.READ_LIVE && passed.incrementAndGet() > 5) {
              await(released);
            }
            return length;
          };
      long deadline = System.nanoTime() + STALL_NANOS / 2;
      SsdJob job = rig.readJob(slots, identities(headers), deadline);
      assertThat(rig.engine.submit(job)).isTrue();
      SsdEvent.Ended end = rig.await(job);
      long late = System.nanoTime() - deadline;
      assertThat(late).isPositive().isLessThan(TimeUnit.SECONDS.toNanos(2));
      assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
      assertThat(end.cause()).contains("deadline");
      assertThat(end.drained()).as("the disk still has the memory").isFalse();
      rig.until(() -> rig.engine.stats().deadlinesMissed() == 1);

      // Then the directory is found stalled, and takes nothing.
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.STALLED);
      assertThat(rig.engine.allocate(4096)).isEqualTo(SsdStore.FULL);
      SsdJob other = rig.readJob(slots, identities(headers), SsdJob.NO_DEADLINE);
      assertThat(rig.engine.submit(other)).isFalse();
      assertThat(rig.engine.poll()).isNull();

      // When it answers, the memory comes back, and everything works as before.
      released.countDown();
      assertThat(rig.await(SsdEvent.Drained.class).job()).isSameAs(job);
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.SERVING);
      faults = IoFaults.NONE;
      assertThat(rig.read(slots, identities(headers)).ready()).isEqualTo(30);
    }
  }

  @Test
  void stalledDisk_endsItsWrites_andLeavesTheOtherDirectoryAlone() throws Exception {
    CountDownLatch released = new CountDownLatch(1);
    try (SsdRig rig = open(two(0));
        AutoCloseable release = released::countDown) {
      assertThat(release).isNotNull();
      long[] slots = allocate(rig, 8);
      faults =
          (op, length) -> {
            if (Thread.currentThread().getName().startsWith("flexkv-ssd-0")) {
              await(released);
            }
            return length;
          };
      SsdEvent.Ended end = rig.await(rig.submitWrite(slots, headers(1, 8)));
      assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
      assertThat(end.cause()).contains("stall");
      List<SlotHeader> more = headers(100, 8);
      assertThat(rig.read(rig.write(more), identities(more)).ready()).isEqualTo(8);
      rig.engine.resetNamespace(5, 5, 1);
      released.countDown();
      assertThat(rig.await(SsdEvent.ResetDone.class).durable()).isTrue();
      if (!end.drained()) {
        assertThat(
                rig.events.stream().anyMatch(SsdEvent.Drained.class::isInstance)
                    || rig.await(SsdEvent.Drained.class) != null)
            .isTrue();
      }
    }
  }

  private static void await(CountDownLatch latch) {
    try {
      assertThat(latch.await(30, TimeUnit.SECONDS)).isTrue();
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  @Test
  void fullQueue_refuses_andTakesAgain() throws Exception {
    CountDownLatch released = new CountDownLatch(1);
    try (SsdRig rig = open(SsdRig.options(0, CAPACITY, folder.resolve("a")));
        AutoCloseable release = released::countDown) {
      assertThat(release).isNotNull();
      List<SlotHeader> headers = headers(1, 1);
      long[] slots = rig.write(headers);
      faults =
          (op, length) -> {
            await(released);
            return length;
          };
      List<SsdJob> accepted = new ArrayList<>();
      SsdJob job;
      do {
        job = rig.readJob(slots, identities(headers), SsdJob.NO_DEADLINE);
        accepted.add(job);
      } while (rig.engine.submit(job));
      accepted.removeLast();
      assertThat(accepted).hasSizeLessThanOrEqualTo(SsdTuning.defaults().maxOpenJobs());
      released.countDown();
      for (SsdJob open : accepted) {
        assertThat(open).isNotNull();
        rig.await(SsdEvent.Ended.class);
      }
      rig.until(() -> rig.engine.directories().get(0).state() == SsdStore.State.SERVING);
      assertThat(rig.read(slots, identities(headers)).ready()).isOne();
    }
  }

  @Test
  void oneOfTwoDirectoriesUnusableAtTheStart_theOtherServes() throws IOException {
    Files.createFile(folder.resolve("a"));
    try (SsdRig rig = open(two(0))) {
      assertThat(rig.engine.directories()).hasSize(1);
      List<SlotHeader> headers = headers(1, 4);
      assertThat(rig.read(rig.write(headers), identities(headers)).ready()).isEqualTo(4);
    }
    Files.createFile(folder.resolve("c"));
    assertThatThrownBy(() -> open(SsdRig.options(0, CAPACITY, folder.resolve("c"))))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("no SSD directory can be used");
  }

  @Test
  void directoryThatCannotBeMade_namesCauseAndRemedy() throws IOException {
    Path file = Files.createFile(folder.resolve("file"));
    assertThatThrownBy(() -> open(SsdRig.options(0, CAPACITY, file.resolve("ssd"))))
        .hasMessage(
            "no SSD directory can be used: %s is not a folder. Remedy: set ssd_cache_dir"
                    .formatted(file)
                + " (FLEXKV_SSD_CACHE_DIR) to a folder of a local disk that this user can write");
    assertThat(SsdOpening.why(new NoSuchFileException("/proc/x")))
        .startsWith("/proc/x is not there and cannot be made. Remedy: ");
    assertThat(SsdOpening.why(new AccessDeniedException("/x")))
        .startsWith("/x may not be used: permission denied. Remedy: ");
    assertThat(SsdOpening.why(new FileSystemException("/x", null, "Read-only file system")))
        .startsWith("/x cannot be used: Read-only file system. Remedy: ");
    assertThat(SsdOpening.why(new IOException("our own words"))).isEqualTo("our own words");
  }

  @Test
  void directoryInMemory_isSaidWithTheRemedy() {
    assertThat(SsdOpening.memoryWarning(Path.of("/dev/shm/x"), "tmpfs"))
        .startsWith("SSD directory /dev/shm/x is of type tmpfs: that is memory, no disk, ")
        .contains("Remedy: set ssd_cache_dir (FLEXKV_SSD_CACHE_DIR) to a folder of a local disk");
    assertThat(SsdOpening.memoryWarning(Path.of("/disk0"), "ext4")).isEmpty();
  }

  @Test
  void sizeOutOfBounds_boundsThatAreNamedInGigabytesHold() throws IOException {
    assertThatThrownBy(() -> openPlain(0.0002))
        .hasMessageContaining("would have 0.0002 GB, wanted 0.0007 to 8796.0931: change");
    assertThatThrownBy(() -> openPlain(10_000))
        .hasMessageContaining("would have 10000 GB, wanted 0.0007 to 8796.0931: change");
    assertThatThrownBy(() -> openPlain(8796.0931)).hasMessageContaining(" GB more, its disk has ");
    openPlain(0.0007);
  }

  private void openPlain(double gigabytes) throws IOException {
    long bytes = Math.round(gigabytes * 1e9);
    DirectoryFiles.open(folder.resolve("plain"), bytes, 0, 0, new SecureRandom()).close();
  }

  @Test
  void closeWithAStalledDisk_comesBack() throws Exception {
    CountDownLatch released = new CountDownLatch(1);
    CountDownLatch stalled = new CountDownLatch(1);
    long begin;
    try (SsdRig rig = open(SsdRig.options(0, CAPACITY, folder.resolve("a")));
        AutoCloseable release = released::countDown) {
      assertThat(release).isNotNull();
      long[] slots = allocate(rig, 4);
      faults =
          (op, length) -> {
            if (op.urgency() == BlockOp.Urgency.WRITE) {
              stalled.countDown();
              await(released);
            }
            return length;
          };
      rig.submitWrite(slots, headers(1, 4));
      await(stalled);
      begin = System.nanoTime();
      rig.engine.close();
      assertThat(System.nanoTime() - begin).isLessThan(TimeUnit.SECONDS.toNanos(25));
      released.countDown();
    }
  }

  /** Nobody watches it any more then, and whoever ends must be able to. */
  @Test
  void close_diskStallsAtItsLastWord_comesBack() throws Exception {
    CountDownLatch released = new CountDownLatch(1);
    CountDownLatch begun = new CountDownLatch(1);
    SsdOptions options = SsdRig.options(0, CAPACITY, folder.resolve("a"));
    DirectoryFiles files =
        DirectoryFiles.open(folder.resolve("a"), CAPACITY, 0, 256 << 10, new SecureRandom());
    SsdTuning tuning = SsdRig.tuning().withFaults((op, length) -> faults.permit(op, length));
    SsdDirectory directory =
        new SsdDirectory(0, files, options, tuning, new SsdCounters(), new Unconcerned());
    directory.start(new long[0], begun::countDown);
    await(begun);
    faults =
        (op, length) -> {
          await(released);
          return length;
        };
    Thread closer = Thread.ofPlatform().start(() -> directory.close(100_000_000));
    assertThat(closer.join(Duration.ofSeconds(20))).isTrue();
    released.countDown();
    directory.close(10_000_000_000L);
  }

  private static final class Unconcerned implements SsdDirectory.Owner {
    @Override
    public void lost(SsdDirectory directory, String cause) {}

    @Override
    public void wakeUp() {}
  }
}
