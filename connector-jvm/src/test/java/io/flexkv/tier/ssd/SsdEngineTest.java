package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Slots, jobs and events of one life of the store. */
class SsdEngineTest {
  private static final long CAPACITY = 16 << 20;

  @TempDir Path folder;

  private SsdOptions options(int ring) {
    return SsdRig.options(ring, CAPACITY, folder.resolve("a"));
  }

  private SsdRig rig() throws IOException {
    return SsdRig.open(options(0), SsdRig.tuning());
  }

  private static List<SlotHeader> chain(int firstKey, int blocks, long payload) {
    return IntStream.range(0, blocks)
        .mapToObj(i -> SsdRig.header(firstKey + i, i == 0 ? 0 : firstKey + i - 1, 0, payload))
        .toList();
  }

  private static List<SlotIdentity> identities(List<SlotHeader> headers) {
    return headers.stream().map(SlotHeader::identity).toList();
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 8})
  void read_afterWrite_hasTheBytes_inOrder(int ring) throws IOException {
    try (SsdRig rig = SsdRig.open(options(ring), SsdRig.tuning())) {
      List<SlotHeader> headers = chain(1, 24, 100_000);
      long[] slots = rig.write(headers);
      rig.events.clear();
      SsdEvent.Ended end = rig.read(slots, identities(headers));
      assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.DONE);
      assertThat(end.ready()).isEqualTo(24);
      List<Integer> steps =
          rig.events.stream()
              .filter(SsdEvent.Progress.class::isInstance)
              .map(event -> ((SsdEvent.Progress) event).ready())
              .toList();
      assertThat(steps).isSorted().isNotEmpty();
      assertThat(rig.engine.stats().readBlocks()).isEqualTo(24);
      assertThat(rig.engine.stats().writtenBytes()).isEqualTo(24 * 100_000);
    }
  }

  @Test
  void headers_costLittleBesidePayloads() throws IOException {
    try (SsdRig rig = rig()) {
      rig.write(chain(1, 128, 64 << 10));
      assertThat(rig.engine.stats().headerBytes()).isLessThan(128 * 1024);
    }
  }

  @Test
  void read_ofAnotherBlock_isAMiss_notCorruption() throws IOException {
    try (SsdRig rig = rig()) {
      long slot = rig.write(SsdRig.header(1, 0, 0, 5000));
      for (SlotIdentity other :
          List.of(
              SsdRig.header(2, 0, 0, 5000).identity(),
              SsdRig.header(1, 0, 1, 5000).identity(),
              SsdRig.header(1, 0, 0, 5001).identity())) {
        SsdEvent.Ended end = rig.read(slot, other);
        assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
        assertThat(end.ready()).isZero();
        assertThat(end.badSlot()).isEqualTo(SsdStore.FULL);
        assertThat(end.cause()).contains("holds another block");
      }
      assertThat(rig.engine.stats().corruptBlocks()).isZero();
    }
  }

  @Test
  void chain_withOneWrongBlock_isReadUpToIt() throws IOException {
    try (SsdRig rig = rig()) {
      List<SlotHeader> headers = chain(1, 20, 20_000);
      long[] slots = rig.write(headers);
      List<SlotIdentity> expected = new ArrayList<>(identities(headers));
      expected.set(7, SsdRig.header(999, 0, 0, 20_000).identity());
      SsdEvent.Ended end = rig.read(slots, expected);
      assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.FAILED);
      assertThat(end.ready()).isEqualTo(7);
    }
  }

  @Test
  void allocate_untilFull_thenFree_givesAllBack() throws IOException {
    try (SsdRig rig = rig()) {
      Set<Long> slots = new HashSet<>();
      long slot;
      while ((slot = rig.engine.allocate(50_000)) != SsdStore.FULL) {
        assertThat(slots.add(slot)).isTrue();
      }
      long used = rig.engine.usedBytes();
      assertThat(used).isLessThanOrEqualTo(CAPACITY).isGreaterThan(CAPACITY * 8 / 10);
      slots.forEach(rig.engine::free);
      assertThat(rig.engine.usedBytes()).isZero();
      // Other sizes find the extents again, also such as are longer than one.
      assertThat(rig.engine.allocate(900_000)).isPositive();
      assertThat(rig.engine.allocate(4096)).isPositive();
    }
  }

  @Test
  void diskSpace_neverExceedsTheCap() throws IOException {
    Path a = folder.resolve("a");
    SsdOptions split = new SsdOptions(List.of(a), CAPACITY, 4 << 20, 0, 0, 4, 0);
    try (SsdRig rig = SsdRig.open(split, SsdRig.tuning());
        Stream<Path> files = Files.list(a)) {
      rig.write(chain(1, 20, 600_000));
      List<Path> all = files.toList();
      long bytes = 0;
      for (Path file : all) {
        bytes += Files.size(file);
        assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(file)))
            .isEqualTo("rw-------");
        assertThat(Files.size(file)).isLessThanOrEqualTo(4 << 20);
      }
      assertThat(bytes).isLessThanOrEqualTo(CAPACITY);
      assertThat(all).hasSizeGreaterThan(4);
      assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(a)))
          .isEqualTo("rwx------");
    }
  }

  @Test
  void free_twice_isRefused_andOldNumbersStayWrong() throws IOException {
    try (SsdRig rig = rig()) {
      long slot = rig.engine.allocate(4096);
      rig.engine.free(slot);
      assertThatThrownBy(() -> rig.engine.free(slot)).hasMessageContaining("not held");
      long again = rig.engine.allocate(4096);
      assertThat(again).isNotEqualTo(slot);
      SsdJob job =
          rig.readJob(
              new long[] {slot},
              List.of(SsdRig.header(1, 0, 0, 100).identity()),
              SsdJob.NO_DEADLINE);
      assertThatThrownBy(() -> rig.engine.submit(job)).hasMessageContaining("not held");
    }
  }

  @Test
  void directories_takeTurns() throws IOException {
    SsdOptions two = SsdRig.options(0, CAPACITY, folder.resolve("a"), folder.resolve("b"));
    try (SsdRig rig = SsdRig.open(two, SsdRig.tuning())) {
      List<SlotHeader> headers = chain(1, 32, 30_000);
      long[] slots = rig.write(headers);
      long inFirst =
          IntStream.range(0, 32).filter(i -> rig.engine.directoryOf(slots[i]) == 0).count();
      assertThat(inFirst).isEqualTo(16);
      assertThat(rig.read(slots, identities(headers)).ready()).isEqualTo(32);
    }
  }

  @Test
  void secondOwner_isToldWhoTheFirstIs() throws IOException {
    try (SsdRig rig = rig()) {
      assertThat(rig.engine.usedBytes()).isZero();
      assertThatThrownBy(() -> SsdRig.open(options(0), SsdRig.tuning()))
          .isInstanceOf(SsdInUseException.class)
          .hasMessageContaining(folder.resolve("a").toString())
          .hasMessageContaining("in use by process " + ProcessHandle.current().pid())
          .hasMessageContaining("ssd_cache_dir");
    }
  }

  @Test
  void sameDirectoryTwice_isRefused() {
    SsdOptions twice = SsdRig.options(0, CAPACITY, folder.resolve("a"), folder.resolve("x/../a"));
    assertThatThrownBy(() -> SsdRig.open(twice, SsdRig.tuning())).hasMessageContaining("twice");
  }

  @Test
  void tooSmallACapacity_saysWhatIsWanted() {
    assertThatThrownBy(
            () -> SsdRig.open(SsdRig.options(0, 100_000, folder.resolve("a")), SsdRig.tuning()))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("ssd_cache_gb");
  }

  @Test
  void cancel_endsAJob_once() throws IOException {
    try (SsdRig rig = rig()) {
      List<SlotHeader> headers = chain(1, 200, 60_000);
      long[] slots = rig.write(headers.subList(0, 100));
      SsdJob job = rig.readJob(slots, identities(headers.subList(0, 100)), SsdJob.NO_DEADLINE);
      assertThat(rig.engine.submit(job)).isTrue();
      assertThat(rig.engine.cancel(job.id())).isTrue();
      SsdEvent.Ended end = rig.await(job);
      assertThat(end.drained()).isTrue();
      assertThat(end.outcome()).isEqualTo(SsdEvent.Outcome.CANCELLED);
      assertThat(rig.engine.cancel(job.id())).isFalse();
    }
  }

  /** Or the queue of news, which the number of open jobs bounds, would not be bounded. */
  @Test
  void ended_whileItIsTold_countsAsOpen() throws Exception {
    SsdTuning d = SsdRig.tuning();
    SsdTuning oneJob =
        new SsdTuning(
            d.extentBytes(),
            d.stallNanos(),
            d.maxReadErrors(),
            1,
            d.maxQueuedBlocks(),
            d.barrierNanos(),
            d.resetNanos(),
            d.waitingBytes(),
            d.faults());
    CompletableFuture<Boolean> accepted = new CompletableFuture<>();
    AtomicReference<SsdEngine> opened = new AtomicReference<>();
    AtomicReference<SsdJob> second = new AtomicReference<>();
    Runnable told =
        () -> {
          SsdEngine engine = opened.get();
          SsdJob next = second.get();
          if (engine != null && next != null && engine.poll() instanceof SsdEvent.Ended) {
            accepted.complete(engine.submit(next));
          }
        };
    CountDownLatch ready = new CountDownLatch(1);
    try (SsdEngine engine = SsdOpening.open(options(0), oneJob, told);
        Arena arena = Arena.ofShared()) {
      engine.recover(
          new RecoverySink() {
            @Override
            public void offer(SurvivorBatch batch) {
              throw new AssertionError("an empty directory");
            }

            @Override
            public void finished(Report report) {
              ready.countDown();
            }
          });
      assertThat(ready.await(30, TimeUnit.SECONDS)).isTrue();
      long address = arena.allocate(4096, 4096).address();
      SsdJob[] jobs = new SsdJob[2];
      for (int i = 0; i < 2; i++) {
        long[] slot = {engine.allocate(4096)};
        jobs[i] = SsdJob.write(i, slot, new long[] {address}, chain(1 + i, 1, 4096));
      }
      second.set(jobs[1]);
      opened.set(engine);
      assertThat(engine.submit(jobs[0])).isTrue();
      assertThat(accepted.get(30, TimeUnit.SECONDS)).isFalse();
    }
  }

  @Test
  void emptyExtents_goToTheHeaderLog_whenItNeedsThem() throws IOException {
    try (SsdRig rig = rig()) {
      // Long headers and little payload: the three extents that the log begins with do not do.
      List<SlotHeader> headers =
          IntStream.range(0, 1000).mapToObj(i -> SsdRig.header(i + 1, 0, 0, 4096, 2900)).toList();
      List<Long> slots = new ArrayList<>();
      for (int at = 0; at < headers.size(); at += 50) {
        for (long slot : rig.write(headers.subList(at, at + 50))) {
          slots.add(slot);
        }
      }
      for (int i = 0; i < headers.size(); i++) {
        assertThat(rig.read(slots.get(i), headers.get(i).identity()).ready()).isOne();
      }
    }
  }
}
