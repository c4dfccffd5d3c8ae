package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.ffm.PidFd;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.PlanLoadRecord;
import io.flexkv.protocol.PlanSaveRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ResetAnswerRecord;
import io.flexkv.protocol.ResetRecord;
import io.flexkv.protocol.RevokeRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** An engine whose two ranks only lend their memory: its scheduler says "go" for both. */
class SchedulerStartsTest {
  private static final int BLOCK = 4096;
  private static final int RANKS = 2;

  @TempDir Path folder;
  private SidecarRig rig;
  private TestClient scheduler;
  private final TestClient[] workers = new TestClient[RANKS];
  private final MemorySegment[] memory = new MemorySegment[RANKS];
  private final byte[] hashes = new byte[32 * 8];
  private long counter;

  @BeforeEach
  void start() throws Exception {
    new Random(3).nextBytes(hashes);
    rig = new SidecarRig(folder);
    scheduler = TestClient.of(rig, Protocol.ROLE_SCHEDULER);
    scheduler.join("e", h -> h.put("world_size", RANKS));
    for (int rank = 0; rank < RANKS; rank++) {
      int mine = rank;
      workers[rank] = TestClient.of(rig, Protocol.ROLE_WORKER);
      // They know neither how many they are nor what is computed: the scheduler's word counts.
      workers[rank].join("e", h -> h.put("world_size", 0).put("namespace", "").put("rank", mine));
      memory[rank] = workers[rank].arena.allocate((long) BLOCK * TestClient.BLOCKS, 4096);
    }
  }

  @AfterEach
  void stop() throws Exception {
    scheduler.close();
    for (TestClient worker : workers) {
      worker.close();
    }
    rig.close();
  }

  private JsonNode register(int rank) throws Exception {
    ObjectNode args = Json.newObject();
    args.put("session_id", workers[rank].sessionId).put("proved", true).putNull("fences");
    ObjectNode layout = args.putObject("layout");
    layout.put("block_tokens", 16).put("num_blocks", TestClient.BLOCKS).put("fingerprint", "f");
    ObjectNode allocation = layout.putArray("allocations").addObject();
    allocation.put("kind", "process").put("pid", TestClient.PID);
    allocation.put("start_ticks", PidFd.startTimeTicks(TestClient.PID));
    allocation.put("address", memory[rank].address()).put("length", memory[rank].byteSize());
    layout
        .putArray("regions")
        .addArray()
        .add(0)
        .add(0)
        .add(BLOCK)
        .add(BLOCK)
        .add(TestClient.BLOCKS);
    rig.control.register(args);
    return rig.control.confirm(args);
  }

  private void becomeReady() throws Exception {
    assertThat(register(0).path("detail").asText()).contains("rank 1 has not confirmed");
    assertThat(register(1).path("ready").asBoolean()).isTrue();
  }

  private LookupAnswerRecord lookup() throws Exception {
    scheduler.send(
        ExtendRecord.encode(scheduler.scratch, 1, 0, 32, hashes, new byte[0], new byte[0]));
    scheduler.send(LookupRecord.encode(scheduler.scratch, ++counter, 1, 8, 0, 1000, 0));
    return scheduler.receive(new LookupAnswerRecord());
  }

  private long newJob() {
    return Protocol.jobId(scheduler.sessionId, ++counter);
  }

  private void go(long job, int kind) throws Exception {
    scheduler.send(
        GoRecord.encode(scheduler.scratch, job, 0, -1, -1, 5000, kind, Protocol.FENCE_NONE));
  }

  private void planLoad(long job, LookupAnswerRecord found, int... blocks) throws Exception {
    int generation = (int) found.generation();
    scheduler.send(
        PlanLoadRecord.encode(
            scheduler.scratch, job, 1, found.leaseId(), generation, 0, blocks, 0));
  }

  /** A JobDone a rank, all of one job; the last is given back. */
  private JobDoneRecord doneByAll(long job) throws Exception {
    JobDoneRecord done = new JobDoneRecord();
    for (int rank = 0; rank < RANKS; rank++) {
      assertThat(scheduler.receive(done).jobId()).isEqualTo(job);
    }
    return done;
  }

  private void save(int... blocks) throws Exception {
    lookup();
    long job = newJob();
    scheduler.send(
        PlanSaveRecord.encode(scheduler.scratch, job, 1, 0, blocks, new long[blocks.length], 0));
    go(job, Protocol.KIND_SAVE);
    doneByAll(job);
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(blocks.length);
  }

  private byte[] fill(int rank, int block, int seed) {
    byte[] bytes = new byte[BLOCK];
    new Random(seed).nextBytes(bytes);
    MemorySegment.copy(bytes, 0, memory[rank], ValueLayout.JAVA_BYTE, (long) block * BLOCK, BLOCK);
    return bytes;
  }

  private byte[] block(int rank, int block) {
    return memory[rank].asSlice((long) block * BLOCK, BLOCK).toArray(ValueLayout.JAVA_BYTE);
  }

  @Test
  void go_ofTheScheduler_movesEveryRanksPartAndAnswersTheScheduler() throws Exception {
    becomeReady();
    byte[] first = fill(0, 4, 1);
    byte[] second = fill(1, 4, 2);
    save(4);
    LookupAnswerRecord found = lookup();
    assertThat(found.servable()).isEqualTo(1);
    long job = newJob();
    planLoad(job, found, 20);
    go(job, Protocol.KIND_LOAD);
    JobDoneRecord done = doneByAll(job);
    assertThat(done.status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(done.blocksOk()).isEqualTo(1);
    assertThat(block(0, 20)).isEqualTo(first);
    assertThat(block(1, 20)).isEqualTo(second);
    assertThat(workers[0].nothingReceived()).isTrue();
    assertThat(workers[1].nothingReceived()).isTrue();
  }

  @Test
  void go_whileARankIsAway_isAnsweredForEveryRank() throws Exception {
    becomeReady();
    fill(0, 4, 1);
    save(4);
    LookupAnswerRecord found = lookup();
    workers[1].close();
    SidecarRig.await("it is gone", () -> rig.rendezvous.clients() == RANKS);
    long job = newJob();
    planLoad(job, found, 20);
    go(job, Protocol.KIND_LOAD);
    assertThat(doneByAll(job).status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  @Test
  void revoke_ofTheScheduler_endsEveryRanksPartOnce() throws Exception {
    becomeReady();
    fill(0, 4, 1);
    save(4);
    LookupAnswerRecord found = lookup();
    long job = newJob();
    go(job, Protocol.KIND_LOAD);
    scheduler.send(RevokeRecord.encode(scheduler.scratch, job));
    assertThat(doneByAll(job).status()).isIn(Protocol.STATUS_REVOKED, Protocol.STATUS_VOID);
    byte[] before = fill(0, 20, 9);
    planLoad(job, found, 20);
    scheduler.send(RevokeRecord.encode(scheduler.scratch, job));
    lookup();
    assertThat(block(0, 20)).isEqualTo(before);
    assertThat(scheduler.nothingReceived()).isTrue();
    assertThat(rig.status().path("open_parts").asInt()).isZero();
  }

  /** Another scheduler of the same name, of a namespace of its own; the ranks stay. */
  private void succeed(String namespace) throws Exception {
    scheduler.close();
    SidecarRig.await("the old one has gone", () -> rig.rendezvous.clients() <= RANKS);
    scheduler = TestClient.of(rig, Protocol.ROLE_SCHEDULER);
    scheduler.join("e", h -> h.put("world_size", RANKS).put("namespace", namespace));
  }

  @Test
  void reset_ofASuccessorThatIsNotReady_forgetsItsOwnNamespaceAndNotItsPredecessors()
      throws Exception {
    becomeReady();
    succeed("a");
    fill(0, 4, 1);
    save(4);
    succeed("b");
    save(4);
    workers[1].close();
    succeed("a");
    scheduler.send(ResetRecord.encode(scheduler.scratch, 99));
    scheduler.receive(new ResetAnswerRecord());
    workers[1] = TestClient.of(rig, Protocol.ROLE_WORKER);
    workers[1].join("e", h -> h.put("world_size", 0).put("namespace", "").put("rank", 1));
    assertThat(register(1).path("ready").asBoolean()).isTrue();
    assertThat(lookup().servable()).as("what was saved before its reset").isZero();
    succeed("b");
    assertThat(lookup().servable()).as("another namespace").isEqualTo(1);
  }

  @Test
  void go_ofAnotherSchedulersJob_breaksTheProtocol() throws Exception {
    becomeReady();
    go(Protocol.jobId(scheduler.sessionId + 100, 1), Protocol.KIND_LOAD);
    SidecarRig.await("the end of that session", scheduler::ended);
  }
}
