package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.SaveDoneRecord;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A rank that ended while a save of its blocks was being copied, its scheduler still there. */
class GoneRankTest {
  @TempDir Path folder;
  private final FakeEngine memory = new FakeEngine(4096);
  private final CompletableFuture<FakeDevice> opened = new CompletableFuture<>();
  private FakeDevice device;
  private SidecarRig rig;
  private TestScheduler scheduler;
  private long save;

  @BeforeEach
  void loseARankInASave() throws Exception {
    rig =
        new SidecarRig(
            folder,
            layout -> {
              FakeDevice first = memory.open(layout);
              opened.complete(first);
              return first;
            });
    scheduler = TestScheduler.joined(rig, "e");
    TestRank worker = TestRank.joined(rig, "e");
    worker.makeReady();
    device = opened.join();
    device.held = true;
    scheduler.extend(1);
    save = scheduler.newJob();
    scheduler.planSave(save, 1, 4, 5);
    worker.go(save, Protocol.KIND_SAVE);
    SidecarRig.await("the copy runs", () -> device.submitted.get() > 0);
    worker.close();
    SidecarRig.await("the agent knows", () -> rig.text("/instances/0/missing").contains("rank 0"));
  }

  @AfterEach
  void stop() throws Exception {
    device.held = false;
    scheduler.close();
    rig.close();
  }

  /** Its forward may have been killed half way, whatever its events and copies say. */
  @Test
  void save_ofARankThatIsGone_isDroppedThoughItsCopyEndsWell() throws Exception {
    device.held = false;
    SaveDoneRecord done = scheduler.receive(new SaveDoneRecord());
    assertThat(done.jobId()).isEqualTo(save);
    assertThat(device.ended).as("bytes that were copied").isNotEmpty();
    assertThat(done.committed()).isZero();
    assertThat(done.dropped()).isEqualTo(2);
    assertThat(rig.count("/cache/saved_blocks")).isZero();
    assertThat(rig.count("/cache/used_bytes")).isZero();
    assertThat(rig.count("/open_parts")).isZero();
  }

  @Test
  void save_ofARankThatIsGone_keepsItsSlotsUntilItsCopyHasEnded() throws Exception {
    for (int turn = 0; turn < 10; turn++) {
      rig.agent.inbox().call(() -> true, 1000);
      assertThat(rig.count("/cache/used_bytes")).isPositive();
    }
    assertThat(scheduler.nothingReceived()).as("said to have ended while its copy runs").isTrue();
    device.held = false;
    assertThat(scheduler.receive(new SaveDoneRecord()).jobId()).isEqualTo(save);
    assertThat(rig.count("/cache/used_bytes")).isZero();
  }
}
