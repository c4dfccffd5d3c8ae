package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.ffm.PidFd;
import io.flexkv.protocol.EchoRecord;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.PlanLoadRecord;
import io.flexkv.protocol.PlanSaveRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RequestException;
import io.flexkv.protocol.SaveDoneRecord;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Four ranks that hold the same bytes (latent attention): one copy of a block, read by all. */
class StoredOnceTest {
  private static final int BLOCK = 4096;
  private static final int RANKS = 4;

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
      workers[rank].join("e", h -> h.put("world_size", RANKS).put("rank", mine));
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

  private JsonNode register(int rank, boolean same, String fingerprint) throws Exception {
    ObjectNode args = Json.newObject();
    args.put("session_id", workers[rank].sessionId).put("proved", true).putNull("fences");
    ObjectNode layout = args.putObject("layout");
    layout.put("block_tokens", 16).put("num_blocks", TestClient.BLOCKS);
    layout.put("fingerprint", fingerprint).put("same_on_all_ranks", same);
    ObjectNode allocation = layout.putArray("allocations").addObject();
    allocation.put("kind", "process").put("pid", TestClient.PID);
    allocation.put("start_ticks", PidFd.startTimeTicks(TestClient.PID));
    allocation.put("address", memory[rank].address()).put("length", memory[rank].byteSize());
    var region = layout.putArray("regions").addArray();
    region.add(0).add(0).add(BLOCK).add(BLOCK).add(TestClient.BLOCKS);
    rig.control.register(args);
    return rig.control.confirm(args);
  }

  private void becomeReady(boolean lastIsSame, String lastFingerprint) throws Exception {
    for (int rank = 0; rank < RANKS - 1; rank++) {
      assertThat(register(rank, true, "f").path("ready").asBoolean()).isFalse();
    }
    JsonNode last = register(RANKS - 1, lastIsSame, lastFingerprint);
    assertThat(last.path("ready").asBoolean()).isTrue();
  }

  private LookupAnswerRecord lookup() throws Exception {
    scheduler.send(
        ExtendRecord.encode(scheduler.scratch, 1, 0, 32, hashes, new byte[0], new byte[0]));
    scheduler.send(LookupRecord.encode(scheduler.scratch, ++counter, 1, 8, 0, 1000, 0));
    return scheduler.receive(new LookupAnswerRecord());
  }

  private void go(int rank, long job, int kind) throws Exception {
    int word = kind == Protocol.KIND_LOAD ? 0 : -1;
    TestClient worker = workers[rank];
    worker.send(GoRecord.encode(worker.scratch, job, 0, -1, word, 5000, kind, Protocol.FENCE_NONE));
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(job);
    assertThat(done.status()).as("rank %d", rank).isEqualTo(Protocol.STATUS_OK);
  }

  private void fill(int rank, int block, int seed) {
    byte[] bytes = new byte[BLOCK];
    new Random(seed).nextBytes(bytes);
    MemorySegment.copy(bytes, 0, memory[rank], ValueLayout.JAVA_BYTE, (long) block * BLOCK, BLOCK);
  }

  private byte[] block(int rank, int block) {
    return memory[rank].asSlice((long) block * BLOCK, BLOCK).toArray(ValueLayout.JAVA_BYTE);
  }

  /** Saves block 4 of every rank; the others answer before rank 0 has said anything. */
  private long save() throws Exception {
    lookup();
    long job = Protocol.jobId(scheduler.sessionId, ++counter);
    scheduler.send(
        PlanSaveRecord.encode(scheduler.scratch, job, 1, 0, new int[] {4}, new long[1], 0));
    for (int rank = RANKS - 1; rank >= 0; rank--) {
      go(rank, job, Protocol.KIND_SAVE);
    }
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
    return rig.status().path("cache").path("used_bytes").asLong();
  }

  private void load() throws Exception {
    LookupAnswerRecord found = lookup();
    assertThat(found.servable()).isEqualTo(1);
    long job = Protocol.jobId(scheduler.sessionId, ++counter);
    int generation = (int) found.generation();
    scheduler.send(
        PlanLoadRecord.encode(
            scheduler.scratch, job, 1, found.leaseId(), generation, 0, new int[] {9}, 0));
    for (int rank = 0; rank < RANKS; rank++) {
      go(rank, job, Protocol.KIND_LOAD);
      // The scheduler hears what each rank has heard.
      JobDoneRecord told = scheduler.receive(new JobDoneRecord());
      assertThat(told.jobId()).isEqualTo(job);
      assertThat(told.kind()).isEqualTo(Protocol.KIND_LOAD);
      assertThat(told.status()).isEqualTo(Protocol.STATUS_OK);
      assertThat(told.blocksOk()).isEqualTo(1);
    }
  }

  @Test
  void sameOnAllRanks_savedByRank0_loadedByAllTakesTheRoomOfOne() throws Exception {
    becomeReady(true, "f");
    for (int rank = 0; rank < RANKS; rank++) {
      fill(rank, 4, 7);
    }
    assertThat(save()).isEqualTo(BLOCK);
    load();
    for (int rank = 0; rank < RANKS; rank++) {
      assertThat(block(rank, 9)).as("rank %d", rank).isEqualTo(block(0, 4));
    }
    assertThat(rig.status().path("open_parts").asInt()).isZero();
  }

  @Test
  void jobDoneWaitsForRoomInTheRanksRing_schedulerIsNotTold() throws Exception {
    becomeReady(true, "f");
    save();
    LookupAnswerRecord found = lookup();
    long job = Protocol.jobId(scheduler.sessionId, ++counter);
    int[] blocks = {9};
    scheduler.send(
        PlanLoadRecord.encode(
            scheduler.scratch, job, 1, found.leaseId(), (int) found.generation(), 0, blocks, 0));
    SidecarRig.await("the load's plan", () -> count("/cache/load_jobs") == 1);
    TestClient lazy = workers[0];
    byte[] payload = new byte[16 * 1024];
    for (int i = 0; i < 256; i++) { // 4 MiB of answers that it does not read
      int echo = i;
      SidecarRig.await("room", () -> offered(lazy, echo, payload));
    }
    lazy.send(
        GoRecord.encode(
            lazy.scratch, job, 0, -1, 0, 5000, Protocol.KIND_LOAD, Protocol.FENCE_NONE));
    SidecarRig.await("the copy", () -> Arrays.equals(block(0, 9), block(0, 4)));
    SidecarRig.await("its end", () -> count("/open_parts") == 0);
    assertThat(scheduler.nothingReceived()).isTrue();
  }

  private int count(String pointer) {
    try {
      return rig.status().at(pointer).asInt();
    } catch (RequestException e) {
      throw new AssertionError(e);
    }
  }

  private static boolean offered(TestClient client, int number, byte[] payload) {
    try {
      client.send(EchoRecord.encode(client.scratch, number, payload));
      return true;
    } catch (AssertionError full) {
      return false;
    } catch (Exception e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void oneRankSaysOtherwise_eachKeepsItsPart() throws Exception {
    becomeReady(false, "f");
    eachHasItsPart();
  }

  @Test
  void layoutsDiffer_eachKeepsItsPart() throws Exception {
    becomeReady(true, "g");
    eachHasItsPart();
  }

  private void eachHasItsPart() throws Exception {
    for (int rank = 0; rank < RANKS; rank++) {
      fill(rank, 4, rank);
    }
    lookup();
    long job = Protocol.jobId(scheduler.sessionId, ++counter);
    scheduler.send(
        PlanSaveRecord.encode(scheduler.scratch, job, 1, 0, new int[] {4}, new long[1], 0));
    for (int rank = 0; rank < RANKS; rank++) {
      go(rank, job, Protocol.KIND_SAVE);
    }
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
    load();
    for (int rank = 0; rank < RANKS; rank++) {
      assertThat(block(rank, 9)).as("rank %d", rank).isEqualTo(block(rank, 4));
    }
  }
}
