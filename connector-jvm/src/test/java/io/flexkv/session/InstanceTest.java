package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.protocol.GenerationFileDescriptor;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.ProofPattern;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RequestException;
import io.flexkv.protocol.ResetAnswerRecord;
import io.flexkv.protocol.ResetRecord;
import io.flexkv.protocol.RevokeRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** An engine of one rank against the whole session layer; its memory is this process's own. */
class InstanceTest {
  private static final int BLOCK = TestRank.BLOCK;
  private static final int SHARE = TestRank.SHARE;

  @TempDir Path folder;
  private SidecarRig rig;
  private TestScheduler scheduler;
  private TestRank worker;

  @BeforeEach
  void start() throws Exception {
    rig = new SidecarRig(folder);
    scheduler = TestScheduler.joined(rig, "e");
    worker = TestRank.joined(rig, "e");
  }

  @AfterEach
  void stop() throws Exception {
    scheduler.close();
    worker.close();
    rig.close();
  }

  private ObjectNode proof(long seed) {
    ObjectNode args = Json.newObject();
    args.put("session_id", worker.sessionId).put("seed", seed);
    args.put("expires_ns", System.nanoTime() + 10_000_000_000L);
    args.putArray("blocks").add(0).add(1).add(TestClient.BLOCKS - 1);
    return args;
  }

  private void becomeReady() throws Exception {
    ObjectNode args = worker.provedRegistration();
    assertThat(rig.control.register(args).path("proof").asText()).isEqualTo("known");
    assertThat(rig.control.confirm(args).path("ready").asBoolean()).isTrue();
  }

  /** Ready, and asked for the chain of request 1. */
  private void becomeReadyForARequest() throws Exception {
    becomeReady();
    scheduler.extend(1);
    scheduler.lookup(1);
  }

  @Test
  void lookup_beforeItsRankIsThere_isNotReady() throws Exception {
    scheduler.extend(1);
    assertThat(scheduler.lookup(1).status()).isEqualTo(Protocol.LOOKUP_NOT_READY);
  }

  @Test
  void lookup_chainNotHeld_isUnknown() throws Exception {
    becomeReady();
    assertThat(scheduler.lookup(1).status()).isEqualTo(Protocol.LOOKUP_UNKNOWN);
    scheduler.extend(1);
    assertThat(scheduler.lookup(1).status()).isEqualTo(Protocol.LOOKUP_OK);
    assertThat(scheduler.lookup(1, 9).status()).isEqualTo(Protocol.LOOKUP_UNKNOWN);
  }

  @Test
  void saveThenLoad_bringsTheBytesBack() throws Exception {
    becomeReady();
    scheduler.extend(1);
    assertThat(scheduler.lookup(1).servable()).isZero();
    byte[] first = worker.fill(4, 1);
    byte[] second = worker.fill(5, 2);
    assertThat(scheduler.save(worker, 1, 4, 5).committed()).isEqualTo(2);
    TestScheduler.Found found = scheduler.lookup(1);
    assertThat(found.servable()).isEqualTo(2);
    assertThat(found.leaseId()).isNotZero();
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 20, 21);
    worker.go(job, Protocol.KIND_LOAD);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(job);
    assertThat(done.bootEpoch()).isEqualTo(rig.identity.bootEpoch());
    assertThat(done.status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(done.blocksOk()).isEqualTo(2);
    assertThat(done.bytesMoved()).isEqualTo(2 * BLOCK);
    assertThat(worker.block(20)).isEqualTo(first);
    assertThat(worker.block(21)).isEqualTo(second);
  }

  @Test
  void save_blockReusedMeanwhile_isDropped() throws Exception {
    becomeReadyForARequest();
    worker.fill(4, 1);
    worker.fill(5, 2);
    GenerationFileDescriptor.setCounter(scheduler.generations, 5, 7);
    SaveDoneRecord saved = scheduler.save(worker, 1, 4, 5);
    assertThat(saved.committed()).isEqualTo(1);
    assertThat(saved.dropped()).isEqualTo(1);
    assertThat(scheduler.lookup(1).servable()).isEqualTo(1);
  }

  @Test
  void reset_nothingSavedBeforeIsServed() throws Exception {
    becomeReadyForARequest();
    scheduler.save(worker, 1, 4, 5);
    scheduler.send(ResetRecord.encode(scheduler.scratch, 99));
    assertThat(scheduler.receive(new ResetAnswerRecord()).generation()).isEqualTo(1);
    assertThat(scheduler.lookup(1).servable()).isZero();
  }

  @Test
  void load_plannedBeforeAReset_fails() throws Exception {
    becomeReadyForARequest();
    scheduler.save(worker, 1, 4, 5);
    TestScheduler.Found found = scheduler.lookup(1);
    scheduler.send(ResetRecord.encode(scheduler.scratch, 99));
    scheduler.receive(new ResetAnswerRecord());
    scheduler.lookup(1);
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 20);
    worker.go(job, Protocol.KIND_LOAD);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  @Test
  void load_runningAtAReset_bringsNoBlock() throws Exception {
    becomeReadyForARequest();
    worker.fill(4, 1);
    worker.fill(5, 2);
    scheduler.save(worker, 1, 4, 5);
    TestScheduler.Found found = scheduler.lookup(1);
    long job = scheduler.newJob();
    worker.go(job, Protocol.KIND_LOAD);
    // Two calls: the cache thread has looked at all rings in between, so the go is parked.
    rig.agent.inbox().call(() -> true, 1000);
    rig.agent.inbox().call(() -> planLoadAndReset(job, found), 1000);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.status()).isEqualTo(Protocol.STATUS_FAILED);
    assertThat(done.bytesMoved()).as("the copy itself went well").isEqualTo(2L * BLOCK);
    assertThat(done.blocksOk()).isZero();
  }

  /** By the cache thread, which so finds both in one turn: the mover has the load at the reset. */
  private boolean planLoadAndReset(long job, TestScheduler.Found found) {
    try {
      scheduler.planLoad(job, 1, found, 20, 21);
      scheduler.send(ResetRecord.encode(scheduler.scratch, 99));
      return true;
    } catch (Exception e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void go_ofAnotherSessionsJob_isVoid() throws Exception {
    becomeReady();
    worker.go(Protocol.jobId(scheduler.sessionId + 100, 1), Protocol.KIND_LOAD);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_VOID);
  }

  @Test
  void goBeforePlan_waitsForIt() throws Exception {
    becomeReadyForARequest();
    worker.fill(4, 1);
    long job = scheduler.newJob();
    worker.go(job, Protocol.KIND_SAVE);
    Thread.sleep(30);
    assertThat(worker.nothingReceived()).isTrue();
    scheduler.planSave(job, 1, 4);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
  }

  @Test
  void revoke_ofAParkedLoad_isAnsweredAtOnceAndCopiesNothingLater() throws Exception {
    becomeReadyForARequest();
    worker.fill(4, 1);
    scheduler.save(worker, 1, 4);
    TestScheduler.Found found = scheduler.lookup(1);
    long job = scheduler.newJob();
    worker.go(job, Protocol.KIND_LOAD);
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertThat(worker.receive(new JobDoneRecord()).status())
        .isIn(Protocol.STATUS_REVOKED, Protocol.STATUS_VOID);
    byte[] before = worker.fill(20, 9);
    scheduler.planLoad(job, 1, found, 20);
    assertThat(scheduler.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_VOID);
    scheduler.lookup(1);
    Thread.sleep(30);
    assertThat(worker.block(20)).isEqualTo(before);
    assertThat(worker.nothingReceived()).isTrue();
  }

  @Test
  void plan_whileARankIsAway_failsAtItsGo() throws Exception {
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, new TestScheduler.Found(Protocol.LOOKUP_OK, 1, 1, 0), 20);
    scheduler.extend(1);
    scheduler.lookup(1);
    worker.go(job, Protocol.KIND_LOAD);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  @Test
  void workersEnd_makesTheInstanceNotReady_untilItIsBack() throws Exception {
    becomeReadyForARequest();
    scheduler.save(worker, 1, 4, 5);
    worker.close();
    SidecarRig.await("worker gone", () -> rig.rendezvous.clients() == 1);
    SidecarRig.await(
        "not ready",
        () -> {
          try {
            return scheduler.lookup(1).status() == Protocol.LOOKUP_NOT_READY;
          } catch (Exception e) {
            throw new AssertionError(e);
          }
        });
    worker = TestRank.joined(rig, "e");
    becomeReady();
    TestScheduler.Found again = scheduler.lookup(1);
    assertThat(again.status()).isEqualTo(Protocol.LOOKUP_OK);
    assertThat(again.servable()).isEqualTo(2);
  }

  @Test
  void endOfAll_freesEverythingButTheBlocks() throws Exception {
    becomeReadyForARequest();
    scheduler.save(worker, 1, 4, 5);
    assertThat(scheduler.lookup(1).leaseId()).isNotZero();
    worker.go(scheduler.newJob(), Protocol.KIND_SAVE);
    scheduler.close();
    worker.close();
    SidecarRig.await("both gone", () -> rig.rendezvous.clients() == 0);
    SidecarRig.await("empty", () -> isEmpty(rig));
    JsonNode cache = rig.status().path("cache");
    assertThat(cache.path("ready_blocks").asInt()).isEqualTo(2);
    scheduler = TestScheduler.joined(rig, "e");
    worker = TestRank.joined(rig, "e");
    becomeReady();
    scheduler.extend(1);
    assertThat(scheduler.lookup(1).servable()).isEqualTo(2);
  }

  @Test
  void status_sessions_haveTheirRolesByName() throws Exception {
    becomeReady();
    assertThat(rig.status().path("sessions"))
        .extracting(one -> one.path("role_name").asText())
        .containsExactlyInAnyOrder("scheduler", "worker");
  }

  private static boolean isEmpty(SidecarRig rig) {
    try {
      JsonNode status = rig.status();
      JsonNode cache = status.path("cache");
      return status.path("sessions").isEmpty()
          && status.path("instances").isEmpty()
          && status.path("open_parts").asInt() == 0
          && cache.path("leases").asInt() == 0
          && cache.path("chains").asInt() == 0
          && cache.path("load_jobs").asInt() == 0
          && cache.path("save_jobs").asInt() == 0
          && cache.path("parked_gos").asInt() == 0
          && cache.path("open_instances").asInt() == 0;
    } catch (RequestException e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void proof_rightLayout_isProvedBothWays() throws Exception {
    ObjectNode args = worker.registration();
    assertThat(rig.control.register(args).path("proof").asText()).isEqualTo("needed");
    assertThatThrownBy(() -> rig.control.confirm(args))
        .isInstanceOf(RequestException.class)
        .hasMessageContaining("not proved");
    for (int b : new int[] {0, 1, TestClient.BLOCKS - 1}) {
      for (int region = 0; region < 2; region++) {
        byte[] pattern = ProofPattern.bytes(5, region, b, SHARE);
        MemorySegment.copy(
            pattern,
            0,
            worker.memory,
            ValueLayout.JAVA_BYTE,
            (long) b * BLOCK + (long) region * SHARE,
            SHARE);
      }
    }
    assertThat(rig.control.proveRead(proof(5)).path("equal").asBoolean()).isTrue();
    assertThat(rig.control.proveRead(proof(6)).path("equal").asBoolean()).isFalse();
    assertThat(rig.control.proveRead(proof(5)).path("equal").asBoolean()).isTrue();
    rig.control.proveWrite(proof(8));
    assertThat(worker.memory.asSlice(BLOCK + SHARE, SHARE).toArray(ValueLayout.JAVA_BYTE))
        .isEqualTo(ProofPattern.bytes(8, 1, 1, SHARE));
    assertThat(rig.control.confirm(args).path("ready").asBoolean()).isTrue();
  }

  @Test
  void register_wrong_isRefusedWithOneClearText() throws Exception {
    ObjectNode unknown = worker.registration();
    ((ObjectNode) unknown.at("/layout/allocations/0")).put("kind", "floppy");
    assertRefused(unknown, "unknown kind of allocation 'floppy'");
    ObjectNode notYet = worker.registration();
    ((ObjectNode) notYet.at("/layout/allocations/0")).put("kind", "posix_fd");
    assertRefused(notYet, "posix_fd are not served yet");
    ObjectNode outside = worker.registration();
    ((com.fasterxml.jackson.databind.node.ArrayNode) outside.at("/layout/regions/1")).set(1, 5000);
    assertRefused(outside, "region 1");
    ObjectNode dead = worker.registration();
    ((ObjectNode) dead.at("/layout/allocations/0")).put("pid", 4_194_303);
    assertRefused(dead, "no such process");
    ObjectNode recycled = worker.registration();
    ((ObjectNode) recycled.at("/layout/allocations/0")).put("start_ticks", 1);
    assertRefused(recycled, "start time");
    ObjectNode stranger = worker.registration();
    stranger.put("session_id", scheduler.sessionId);
    assertRefused(stranger, "not a worker's");
    stranger.put("session_id", 4711);
    assertRefused(stranger, "no session 4711");
  }

  private void assertRefused(ObjectNode args, String text) {
    assertThatThrownBy(() -> rig.control.register(args))
        .isInstanceOf(RequestException.class)
        .hasMessageContaining(text);
  }

  @Test
  void processOfAnotherUser_isRefused() {
    assertThatThrownBy(() -> ProcessOwner.check(TestClient.PID, 12345))
        .isInstanceOf(RequestException.class)
        .hasMessageContaining("serves uid 12345");
  }
}
