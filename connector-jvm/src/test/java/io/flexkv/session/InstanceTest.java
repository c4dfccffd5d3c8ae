package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.ffm.PidFd;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.GenerationFileDescriptor;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.PlanLoadRecord;
import io.flexkv.protocol.PlanSaveRecord;
import io.flexkv.protocol.ProofPattern;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RequestException;
import io.flexkv.protocol.ResetAnswerRecord;
import io.flexkv.protocol.ResetRecord;
import io.flexkv.protocol.RevokeRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** An engine of one rank against the whole session layer; its memory is this process's own. */
class InstanceTest {
  private static final int SHARE = 4096;
  private static final int BLOCK = 2 * SHARE;

  @TempDir Path folder;
  private SidecarRig rig;
  private TestClient scheduler;
  private TestClient worker;
  private final MemorySegment engine =
      Arena.ofAuto().allocate((long) BLOCK * TestClient.BLOCKS, 4096);
  private final byte[] hashes = new byte[32 * 8];
  private long counter;

  @BeforeEach
  void start() throws Exception {
    new Random(3).nextBytes(hashes);
    rig = new SidecarRig(folder);
    scheduler = TestClient.of(rig, Protocol.ROLE_SCHEDULER).join("e");
    worker = TestClient.of(rig, Protocol.ROLE_WORKER).join("e");
  }

  @AfterEach
  void stop() throws Exception {
    scheduler.close();
    worker.close();
    rig.close();
  }

  // ------------------------------------------------------------------ helpers

  /** Region 0 and 1 halve each block, as K and V of one layer. */
  private ObjectNode registration() throws Exception {
    return registration(worker, engine);
  }

  /** Registers and confirms a worker over memory of its own. */
  static void makeReady(SidecarRig rig, TestClient worker) throws Exception {
    ObjectNode args = registration(worker);
    args.put("proved", true);
    rig.control.register(args);
    assertThat(rig.control.confirm(args).path("ready").asBoolean()).isTrue();
  }

  /** Of a worker over memory of its own. */
  static ObjectNode registration(TestClient worker) throws Exception {
    MemorySegment memory = worker.arena.allocate((long) BLOCK * TestClient.BLOCKS, 4096);
    return registration(worker, memory);
  }

  static ObjectNode registration(TestClient worker, MemorySegment engine) throws Exception {
    ObjectNode args = Json.newObject();
    args.put("session_id", worker.sessionId).put("proved", false);
    args.putNull("fences");
    ObjectNode layout = args.putObject("layout");
    layout.put("block_tokens", 16).put("num_blocks", TestClient.BLOCKS).put("fingerprint", "f");
    ObjectNode allocation = layout.putArray("allocations").addObject();
    allocation.put("kind", "process").put("pid", TestClient.PID);
    allocation.put("start_ticks", PidFd.startTimeTicks(TestClient.PID));
    allocation.put("address", engine.address()).put("length", engine.byteSize());
    var regions = layout.putArray("regions");
    regions.addArray().add(0).add(0).add(BLOCK).add(SHARE).add(TestClient.BLOCKS);
    regions.addArray().add(0).add(SHARE).add(BLOCK).add(SHARE).add(TestClient.BLOCKS);
    return args;
  }

  private ObjectNode proof(long seed) {
    ObjectNode args = Json.newObject();
    args.put("session_id", worker.sessionId).put("seed", seed);
    args.put("expires_ns", System.nanoTime() + 10_000_000_000L);
    args.putArray("blocks").add(0).add(1).add(TestClient.BLOCKS - 1);
    return args;
  }

  private void becomeReady() throws Exception {
    ObjectNode args = registration();
    args.put("proved", true);
    assertThat(rig.control.register(args).path("proof").asText()).isEqualTo("known");
    assertThat(rig.control.confirm(args).path("ready").asBoolean()).isTrue();
  }

  private void extend(long request) throws Exception {
    scheduler.send(
        ExtendRecord.encode(scheduler.scratch, request, 0, 32, hashes, new byte[0], new byte[0]));
  }

  private LookupAnswerRecord lookup(long request, int chain) throws Exception {
    scheduler.send(LookupRecord.encode(scheduler.scratch, ++counter, request, chain, 0, 1000, 0));
    LookupAnswerRecord answer = scheduler.receive(new LookupAnswerRecord());
    assertThat(answer.queryId()).isEqualTo(counter);
    return answer;
  }

  private long newJob() {
    return Protocol.jobId(scheduler.sessionId, ++counter);
  }

  private void go(long job, int kind) throws Exception {
    worker.send(
        GoRecord.encode(
            worker.scratch,
            job,
            0,
            -1,
            kind == Protocol.KIND_LOAD ? 0 : -1,
            5000,
            kind,
            Protocol.FENCE_NONE));
  }

  private SaveDoneRecord save(long request, int[] blocks, boolean staleSecond) throws Exception {
    long job = newJob();
    long[] generations = new long[blocks.length];
    if (staleSecond) {
      GenerationFileDescriptor.setCounter(scheduler.generations, blocks[1], 7);
    }
    scheduler.send(
        PlanSaveRecord.encode(scheduler.scratch, job, request, 0, blocks, generations, 0));
    go(job, Protocol.KIND_SAVE);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(job);
    assertThat(done.bootEpoch()).isEqualTo(rig.identity.bootEpoch());
    SaveDoneRecord saved = scheduler.receive(new SaveDoneRecord());
    assertThat(saved.jobId()).isEqualTo(job);
    return saved;
  }

  private byte[] fill(int block, int seed) {
    byte[] bytes = new byte[BLOCK];
    new Random(seed).nextBytes(bytes);
    MemorySegment.copy(bytes, 0, engine, ValueLayout.JAVA_BYTE, (long) block * BLOCK, BLOCK);
    return bytes;
  }

  private byte[] block(int block) {
    return engine.asSlice((long) block * BLOCK, BLOCK).toArray(ValueLayout.JAVA_BYTE);
  }

  // ------------------------------------------------------------------ tests

  @Test
  void lookup_beforeItsRankIsThere_isNotReady() throws Exception {
    extend(1);
    assertThat(lookup(1, 8).status()).isEqualTo(Protocol.LOOKUP_NOT_READY);
  }

  @Test
  void lookup_chainNotHeld_isUnknown() throws Exception {
    becomeReady();
    assertThat(lookup(1, 8).status()).isEqualTo(Protocol.LOOKUP_UNKNOWN);
    extend(1);
    assertThat(lookup(1, 8).status()).isEqualTo(Protocol.LOOKUP_OK);
    assertThat(lookup(1, 9).status()).isEqualTo(Protocol.LOOKUP_UNKNOWN);
  }

  @Test
  void saveThenLoad_bringsTheBytesBack() throws Exception {
    becomeReady();
    extend(1);
    assertThat(lookup(1, 8).servable()).isZero();
    byte[] first = fill(4, 1);
    byte[] second = fill(5, 2);
    assertThat(save(1, new int[] {4, 5}, false).committed()).isEqualTo(2);
    LookupAnswerRecord found = lookup(1, 8);
    assertThat(found.servable()).isEqualTo(2);
    assertThat(found.leaseId()).isNotZero();
    long job = newJob();
    scheduler.send(
        PlanLoadRecord.encode(
            scheduler.scratch,
            job,
            1,
            found.leaseId(),
            (int) found.generation(),
            0,
            new int[] {20, 21},
            0));
    go(job, Protocol.KIND_LOAD);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(done.blocksOk()).isEqualTo(2);
    assertThat(done.bytesMoved()).isEqualTo(2 * BLOCK);
    assertThat(block(20)).isEqualTo(first);
    assertThat(block(21)).isEqualTo(second);
  }

  @Test
  void save_blockReusedMeanwhile_isDropped() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    fill(4, 1);
    fill(5, 2);
    SaveDoneRecord saved = save(1, new int[] {4, 5}, true);
    assertThat(saved.committed()).isEqualTo(1);
    assertThat(saved.dropped()).isEqualTo(1);
    assertThat(lookup(1, 8).servable()).isEqualTo(1);
  }

  @Test
  void reset_nothingSavedBeforeIsServed() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    save(1, new int[] {4, 5}, false);
    scheduler.send(ResetRecord.encode(scheduler.scratch, 99));
    assertThat(scheduler.receive(new ResetAnswerRecord()).generation()).isEqualTo(1);
    assertThat(lookup(1, 8).servable()).isZero();
  }

  @Test
  void load_plannedBeforeAReset_fails() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    save(1, new int[] {4, 5}, false);
    LookupAnswerRecord found = lookup(1, 8);
    int generation = (int) found.generation();
    long lease = found.leaseId();
    scheduler.send(ResetRecord.encode(scheduler.scratch, 99));
    scheduler.receive(new ResetAnswerRecord());
    lookup(1, 8);
    long job = newJob();
    scheduler.send(
        PlanLoadRecord.encode(scheduler.scratch, job, 1, lease, generation, 0, new int[] {20}, 0));
    go(job, Protocol.KIND_LOAD);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  @Test
  void load_runningAtAReset_bringsNoBlock() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    fill(4, 1);
    fill(5, 2);
    save(1, new int[] {4, 5}, false);
    LookupAnswerRecord found = lookup(1, 8);
    int generation = (int) found.generation();
    long lease = found.leaseId();
    long job = newJob();
    go(job, Protocol.KIND_LOAD);
    // Two calls: the cache thread has looked at all rings in between, so the go is parked.
    rig.agent.inbox().call(() -> true, 1000);
    rig.agent
        .inbox()
        .call(
            () -> {
              // Found in one turn: the mover has the load when the reset comes.
              sendUnchecked(
                  PlanLoadRecord.encode(
                      scheduler.scratch, job, 1, lease, generation, 0, new int[] {20, 21}, 0));
              sendUnchecked(ResetRecord.encode(scheduler.scratch, 99));
              return true;
            },
            1000);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.status()).isEqualTo(Protocol.STATUS_FAILED);
    assertThat(done.bytesMoved()).as("the copy itself went well").isEqualTo(2L * BLOCK);
    assertThat(done.blocksOk()).isZero();
  }

  private void sendUnchecked(int length) {
    try {
      scheduler.send(length);
    } catch (Exception e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void go_ofAnotherSessionsJob_isVoid() throws Exception {
    becomeReady();
    go(Protocol.jobId(scheduler.sessionId + 100, 1), Protocol.KIND_LOAD);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_VOID);
  }

  @Test
  void goBeforePlan_waitsForIt() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    fill(4, 1);
    long job = newJob();
    go(job, Protocol.KIND_SAVE);
    Thread.sleep(30);
    assertThat(worker.nothingReceived()).isTrue();
    scheduler.send(
        PlanSaveRecord.encode(scheduler.scratch, job, 1, 0, new int[] {4}, new long[1], 0));
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
  }

  @Test
  void revoke_ofAParkedLoad_isAnsweredAtOnceAndCopiesNothingLater() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    fill(4, 1);
    save(1, new int[] {4}, false);
    LookupAnswerRecord found = lookup(1, 8);
    long lease = found.leaseId();
    long job = newJob();
    go(job, Protocol.KIND_LOAD);
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertThat(worker.receive(new JobDoneRecord()).status())
        .isIn(Protocol.STATUS_REVOKED, Protocol.STATUS_VOID);
    byte[] before = fill(20, 9);
    scheduler.send(
        PlanLoadRecord.encode(
            scheduler.scratch, job, 1, lease, (int) found.generation(), 0, new int[] {20}, 0));
    assertThat(scheduler.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_VOID);
    lookup(1, 8);
    Thread.sleep(30);
    assertThat(block(20)).isEqualTo(before);
    assertThat(worker.nothingReceived()).isTrue();
  }

  @Test
  void plan_whileARankIsAway_failsAtItsGo() throws Exception {
    long job = newJob();
    scheduler.send(PlanLoadRecord.encode(scheduler.scratch, job, 1, 1, 0, 0, new int[] {20}, 0));
    extend(1);
    lookup(1, 8);
    go(job, Protocol.KIND_LOAD);
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  @Test
  void workersEnd_makesTheInstanceNotReady_untilItIsBack() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    save(1, new int[] {4, 5}, false);
    worker.close();
    SidecarRig.await("worker gone", () -> rig.rendezvous.clients() == 1);
    SidecarRig.await(
        "not ready",
        () -> {
          try {
            return lookup(1, 8).status() == Protocol.LOOKUP_NOT_READY;
          } catch (Exception e) {
            throw new AssertionError(e);
          }
        });
    worker = TestClient.of(rig, Protocol.ROLE_WORKER).join("e");
    becomeReady();
    LookupAnswerRecord again = lookup(1, 8);
    assertThat(again.status()).isEqualTo(Protocol.LOOKUP_OK);
    assertThat(again.servable()).isEqualTo(2);
  }

  @Test
  void endOfAll_freesEverythingButTheBlocks() throws Exception {
    becomeReady();
    extend(1);
    lookup(1, 8);
    save(1, new int[] {4, 5}, false);
    assertThat(lookup(1, 8).leaseId()).isNotZero();
    go(newJob(), Protocol.KIND_SAVE);
    scheduler.close();
    worker.close();
    SidecarRig.await("both gone", () -> rig.rendezvous.clients() == 0);
    SidecarRig.await("empty", () -> isEmpty(rig));
    JsonNode cache = rig.status().path("cache");
    assertThat(cache.path("ready_blocks").asInt()).isEqualTo(2);
    scheduler = TestClient.of(rig, Protocol.ROLE_SCHEDULER).join("e");
    worker = TestClient.of(rig, Protocol.ROLE_WORKER).join("e");
    becomeReady();
    extend(1);
    assertThat(lookup(1, 8).servable()).isEqualTo(2);
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
    ObjectNode args = registration();
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
            engine,
            ValueLayout.JAVA_BYTE,
            (long) b * BLOCK + (long) region * SHARE,
            SHARE);
      }
    }
    assertThat(rig.control.proveRead(proof(5)).path("equal").asBoolean()).isTrue();
    assertThat(rig.control.proveRead(proof(6)).path("equal").asBoolean()).isFalse();
    assertThat(rig.control.proveRead(proof(5)).path("equal").asBoolean()).isTrue();
    rig.control.proveWrite(proof(8));
    assertThat(engine.asSlice(BLOCK + SHARE, SHARE).toArray(ValueLayout.JAVA_BYTE))
        .isEqualTo(ProofPattern.bytes(8, 1, 1, SHARE));
    assertThat(rig.control.confirm(args).path("ready").asBoolean()).isTrue();
  }

  @Test
  void register_wrong_isRefusedWithOneClearText() throws Exception {
    ObjectNode unknown = registration();
    ((ObjectNode) unknown.at("/layout/allocations/0")).put("kind", "floppy");
    assertRefused(unknown, "unknown kind of allocation 'floppy'");
    ObjectNode notYet = registration();
    ((ObjectNode) notYet.at("/layout/allocations/0")).put("kind", "posix_fd");
    assertRefused(notYet, "posix_fd are not served yet");
    ObjectNode outside = registration();
    ((com.fasterxml.jackson.databind.node.ArrayNode) outside.at("/layout/regions/1")).set(1, 5000);
    assertRefused(outside, "region 1");
    ObjectNode dead = registration();
    ((ObjectNode) dead.at("/layout/allocations/0")).put("pid", 4_194_303);
    assertRefused(dead, "no such process");
    ObjectNode recycled = registration();
    ((ObjectNode) recycled.at("/layout/allocations/0")).put("start_ticks", 1);
    assertRefused(recycled, "start time");
    ObjectNode stranger = registration();
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
