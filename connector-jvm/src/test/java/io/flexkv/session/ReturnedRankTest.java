package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RevokeRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.nio.file.Path;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * A rank whose session broke while its load ran, and which is back: nothing is said to have ended
 * while a copy of it may still write.
 */
class ReturnedRankTest {
  @TempDir Path folder;
  private final FakeEngine memory = new FakeEngine(4096);
  private final CopyOnWriteArrayList<FakeDevice> devices = new CopyOnWriteArrayList<>();
  private SidecarRig rig;
  private TestScheduler scheduler;
  private TestRank worker;
  private long saved;
  private long job;

  @BeforeEach
  void startALoadAndLoseItsSession() throws Exception {
    rig =
        new SidecarRig(
            folder,
            layout -> {
              FakeDevice device = memory.open(layout);
              devices.add(device);
              return device;
            });
    scheduler = TestScheduler.joined(rig, "e");
    worker = TestRank.joined(rig, "e");
    worker.makeReady();
    scheduler.extend(1);
    SaveDoneRecord save = scheduler.save(worker, 1, 4);
    assertThat(save.committed()).isEqualTo(1);
    saved = save.jobId();
    TestScheduler.Found found = scheduler.lookup(1);
    devices.getFirst().held = true;
    int submitted = devices.getFirst().submitted.get();
    job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 20);
    worker.go(job, Protocol.KIND_LOAD);
    SidecarRig.await("the copy runs", () -> devices.getFirst().submitted.get() > submitted);
    worker.close();
    SidecarRig.await("the session's end", () -> rig.rendezvous.clients() == 1);
    worker = TestRank.joined(rig, "e");
  }

  @AfterEach
  void stop() throws Exception {
    endTheCopy();
    scheduler.close();
    worker.close();
    rig.close();
  }

  private void endTheCopy() {
    devices.getFirst().held = false;
  }

  private void assertAnsweredOnlyWhenTheCopyHasEnded() throws Exception {
    for (int turn = 0; turn < 20; turn++) {
      rig.agent.inbox().call(() -> true, 1000);
      assertThat(worker.nothingReceived()).as("said to have ended while its copy runs").isTrue();
      Thread.sleep(2);
    }
    endTheCopy();
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(job);
    SidecarRig.await("no part is left", () -> rig.count("/open_parts") == 0);
    assertThat(worker.nothingReceived()).as("a second answer").isTrue();
  }

  @Test
  void revoke_ofALoadThatItsOldSessionBegan_isAnsweredWhenTheCopyHasEnded() throws Exception {
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }

  @Test
  void go_ofALoadThatItsOldSessionBegan_isAnsweredWhenTheCopyHasEnded() throws Exception {
    worker.go(job, Protocol.KIND_LOAD);
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }

  @Test
  void go_ofAJobThatWasAnswered_isAnsweredAndLeavesNoPart() throws Exception {
    worker.go(saved, Protocol.KIND_SAVE);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(saved);
    assertThat(done.status()).isEqualTo(Protocol.STATUS_VOID);
    assertThat(rig.count("/open_parts")).as("the load of the old session").isEqualTo(1);
  }

  @Test
  void revoke_byARankOfAnotherInstance_doesNotTouchIt() throws Exception {
    try (TestRank stranger = TestRank.joined(rig, "other")) {
      stranger.send(RevokeRecord.encode(stranger.scratch, job));
      assertThat(stranger.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_VOID);
    }
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }

  /** The instance went with its last session: those that are back are of another one. */
  private void schedulerComesBackToo() throws Exception {
    worker.close();
    scheduler.close();
    SidecarRig.await("the sessions' end", () -> rig.rendezvous.clients() == 0);
    scheduler = TestScheduler.joined(rig, "e");
    worker = TestRank.joined(rig, "e");
  }

  @Test
  void revoke_whenTheSchedulerCameBackToo_isAnsweredWhenTheCopyHasEnded() throws Exception {
    schedulerComesBackToo();
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }

  @Test
  void go_whenTheSchedulerCameBackToo_isAnsweredWhenTheCopyHasEnded() throws Exception {
    schedulerComesBackToo();
    worker.go(job, Protocol.KIND_LOAD);
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }
}
