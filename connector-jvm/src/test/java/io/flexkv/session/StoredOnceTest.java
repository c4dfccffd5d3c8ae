package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.protocol.EchoRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.SaveDoneRecord;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Four ranks that hold the same bytes (latent attention): one copy of a block, read by all. */
class StoredOnceTest {
  private static final int RANKS = 4;

  @TempDir Path folder;
  private SidecarRig rig;
  private TestScheduler scheduler;
  private final TestRank[] ranks = new TestRank[RANKS];

  @BeforeEach
  void start() throws Exception {
    rig = new SidecarRig(folder);
    scheduler = TestScheduler.joined(rig, "e", h -> h.put("world_size", RANKS));
    for (int rank = 0; rank < RANKS; rank++) {
      int mine = rank;
      ranks[rank] = TestRank.joined(rig, "e", h -> h.put("world_size", RANKS).put("rank", mine));
    }
  }

  @AfterEach
  void stop() throws Exception {
    scheduler.close();
    for (TestRank rank : ranks) {
      rank.close();
    }
    rig.close();
  }

  private JsonNode register(int rank, boolean same, String fingerprint) throws Exception {
    ObjectNode args = ranks[rank].provedRegistration();
    ((ObjectNode) args.path("layout"))
        .put("fingerprint", fingerprint)
        .put("same_on_all_ranks", same);
    return ranks[rank].register(args);
  }

  private void becomeReady(boolean lastIsSame, String lastFingerprint) throws Exception {
    for (int rank = 0; rank < RANKS - 1; rank++) {
      assertThat(register(rank, true, "f").path("ready").asBoolean()).isFalse();
    }
    JsonNode last = register(RANKS - 1, lastIsSame, lastFingerprint);
    assertThat(last.path("ready").asBoolean()).isTrue();
  }

  private TestScheduler.Found lookup() throws Exception {
    scheduler.extend(1);
    return scheduler.lookup(1);
  }

  private void go(int rank, long job, int kind) throws Exception {
    ranks[rank].go(job, kind);
    JobDoneRecord done = ranks[rank].receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(job);
    assertThat(done.status()).as("rank %d", rank).isEqualTo(Protocol.STATUS_OK);
  }

  /** Saves block 4 of every rank; the others answer before rank 0 has said anything. */
  private long save() throws Exception {
    lookup();
    long job = scheduler.newJob();
    scheduler.planSave(job, 1, 4);
    for (int rank = RANKS - 1; rank >= 0; rank--) {
      go(rank, job, Protocol.KIND_SAVE);
    }
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
    return rig.count("/cache/used_bytes");
  }

  private void load() throws Exception {
    TestScheduler.Found found = lookup();
    assertThat(found.servable()).isEqualTo(1);
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 9);
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
      ranks[rank].fill(4, 7);
    }
    assertThat(save()).isEqualTo(TestRank.BLOCK);
    load();
    for (int rank = 0; rank < RANKS; rank++) {
      assertThat(ranks[rank].block(9)).as("rank %d", rank).isEqualTo(ranks[0].block(4));
    }
    assertThat(rig.count("/open_parts")).isZero();
  }

  @Test
  void jobDoneWaitsForRoomInTheRanksRing_schedulerIsNotTold() throws Exception {
    becomeReady(true, "f");
    save();
    TestScheduler.Found found = lookup();
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 9);
    SidecarRig.await("the load's plan", () -> rig.count("/cache/load_jobs") == 1);
    TestRank lazy = ranks[0];
    byte[] payload = new byte[16 * 1024];
    for (int i = 0; i < 256; i++) { // 4 MiB of answers that it does not read
      int echo = i;
      SidecarRig.await("room", () -> offered(lazy, echo, payload));
    }
    lazy.go(job, Protocol.KIND_LOAD);
    SidecarRig.await("the copy", () -> Arrays.equals(ranks[0].block(9), ranks[0].block(4)));
    SidecarRig.await("its end", () -> rig.count("/open_parts") == 0);
    assertThat(scheduler.nothingReceived()).isTrue();
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
      ranks[rank].fill(4, rank);
    }
    lookup();
    long job = scheduler.newJob();
    scheduler.planSave(job, 1, 4);
    for (int rank = 0; rank < RANKS; rank++) {
      go(rank, job, Protocol.KIND_SAVE);
    }
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
    load();
    for (int rank = 0; rank < RANKS; rank++) {
      assertThat(ranks[rank].block(9)).as("rank %d", rank).isEqualTo(ranks[rank].block(4));
    }
  }
}
