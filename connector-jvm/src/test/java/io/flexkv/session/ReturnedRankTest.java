package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.PlanLoadRecord;
import io.flexkv.protocol.PlanSaveRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RevokeRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.nio.file.Path;
import java.util.Random;
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
  private TestClient scheduler;
  private TestClient worker;
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
    scheduler = TestClient.of(rig, Protocol.ROLE_SCHEDULER).join("e");
    worker = TestClient.of(rig, Protocol.ROLE_WORKER).join("e");
    InstanceTest.makeReady(rig, worker);
    LookupAnswerRecord found = saveOneBlock();
    devices.getFirst().held = true;
    int submitted = devices.getFirst().submitted.get();
    job = Protocol.jobId(scheduler.sessionId, 2);
    int generation = (int) found.generation();
    scheduler.send(
        PlanLoadRecord.encode(
            scheduler.scratch, job, 1, found.leaseId(), generation, 0, new int[] {20}, 0));
    go(job, Protocol.KIND_LOAD);
    SidecarRig.await("the copy runs", () -> devices.getFirst().submitted.get() > submitted);
    worker.close();
    SidecarRig.await("the session's end", () -> rig.rendezvous.clients() == 1);
    worker = TestClient.of(rig, Protocol.ROLE_WORKER).join("e");
  }

  @AfterEach
  void stop() throws Exception {
    endTheCopy();
    scheduler.close();
    worker.close();
    rig.close();
  }

  private LookupAnswerRecord saveOneBlock() throws Exception {
    byte[] hashes = new byte[32];
    new Random(3).nextBytes(hashes);
    scheduler.send(
        ExtendRecord.encode(scheduler.scratch, 1, 0, 32, hashes, new byte[0], new byte[0]));
    long save = Protocol.jobId(scheduler.sessionId, 1);
    scheduler.send(
        PlanSaveRecord.encode(scheduler.scratch, save, 1, 0, new int[] {4}, new long[1], 0));
    go(save, Protocol.KIND_SAVE);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
    scheduler.send(LookupRecord.encode(scheduler.scratch, 1, 1, 1, 0, 1, 0));
    return scheduler.receive(new LookupAnswerRecord());
  }

  private void go(long id, int kind) throws Exception {
    int word = kind == Protocol.KIND_LOAD ? 0 : -1;
    worker.send(
        GoRecord.encode(worker.scratch, id, 0, -1, word, 60_000, kind, Protocol.FENCE_NONE));
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
    SidecarRig.await("no part is left", () -> openParts() == 0);
    assertThat(worker.nothingReceived()).as("a second answer").isTrue();
  }

  private int openParts() {
    try {
      return rig.status().path("open_parts").asInt();
    } catch (Exception e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void revoke_ofALoadThatItsOldSessionBegan_isAnsweredWhenTheCopyHasEnded() throws Exception {
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }

  @Test
  void go_ofALoadThatItsOldSessionBegan_isAnsweredWhenTheCopyHasEnded() throws Exception {
    go(job, Protocol.KIND_LOAD);
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }

  @Test
  void go_ofAJobThatWasAnswered_isAnsweredAndLeavesNoPart() throws Exception {
    long answered = Protocol.jobId(scheduler.sessionId, 1);
    go(answered, Protocol.KIND_SAVE);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(answered);
    assertThat(done.status()).isEqualTo(Protocol.STATUS_VOID);
    assertThat(openParts()).as("the load of the old session").isEqualTo(1);
  }

  @Test
  void revoke_byARankOfAnotherInstance_doesNotTouchIt() throws Exception {
    try (TestClient stranger = TestClient.of(rig, Protocol.ROLE_WORKER).join("other")) {
      stranger.send(RevokeRecord.encode(stranger.scratch, job));
      assertThat(stranger.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_VOID);
    }
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertAnsweredOnlyWhenTheCopyHasEnded();
  }
}
