package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ResetAnswerRecord;
import io.flexkv.protocol.ResetRecord;
import io.flexkv.protocol.RevokeRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.nio.file.Path;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** An engine whose two ranks only lend their memory: its scheduler says "go" for both. */
class SchedulerStartsTest {
  private static final int RANKS = 2;

  @TempDir Path folder;
  private SidecarRig rig;
  private TestScheduler scheduler;
  private final TestRank[] ranks = new TestRank[RANKS];

  @BeforeEach
  void start() throws Exception {
    rig = new SidecarRig(folder);
    scheduler = TestScheduler.joined(rig, "e", h -> h.put("world_size", RANKS));
    for (int rank = 0; rank < RANKS; rank++) {
      join(rank);
    }
  }

  /** They know neither how many they are nor what is computed: the scheduler's word counts. */
  private void join(int rank) throws Exception {
    ranks[rank] =
        TestRank.joined(
            rig, "e", h -> h.put("world_size", 0).put("namespace", "").put("rank", rank));
  }

  @AfterEach
  void stop() throws Exception {
    scheduler.close();
    for (TestRank rank : ranks) {
      rank.close();
    }
    rig.close();
  }

  private void becomeReady() throws Exception {
    assertThat(ranks[0].register().path("detail").asText()).contains("rank 1 has not confirmed");
    ranks[1].makeReady();
  }

  private TestScheduler.Found lookup() throws Exception {
    scheduler.extend(1);
    return scheduler.lookup(1);
  }

  /** A JobDone a rank, all of one job; the last is given back. */
  private JobDoneRecord doneByAll(long job) throws Exception {
    JobDoneRecord done = new JobDoneRecord();
    for (int rank = 0; rank < RANKS; rank++) {
      assertThat(scheduler.receive(done).jobId()).isEqualTo(job);
    }
    return done;
  }

  private void save(int block) throws Exception {
    lookup();
    long job = scheduler.newJob();
    scheduler.planSave(job, 1, block);
    scheduler.go(job, Protocol.KIND_SAVE);
    doneByAll(job);
    assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isEqualTo(1);
  }

  @Test
  void go_ofTheScheduler_movesEveryRanksPartAndAnswersTheScheduler() throws Exception {
    becomeReady();
    byte[] first = ranks[0].fill(4, 1);
    byte[] second = ranks[1].fill(4, 2);
    save(4);
    TestScheduler.Found found = lookup();
    assertThat(found.servable()).isEqualTo(1);
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 20);
    scheduler.go(job, Protocol.KIND_LOAD);
    JobDoneRecord done = doneByAll(job);
    assertThat(done.status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(done.blocksOk()).isEqualTo(1);
    assertThat(ranks[0].block(20)).isEqualTo(first);
    assertThat(ranks[1].block(20)).isEqualTo(second);
    assertThat(ranks[0].nothingReceived()).isTrue();
    assertThat(ranks[1].nothingReceived()).isTrue();
  }

  @Test
  void go_whileARankIsAway_isAnsweredForEveryRank() throws Exception {
    becomeReady();
    ranks[0].fill(4, 1);
    save(4);
    TestScheduler.Found found = lookup();
    ranks[1].close();
    SidecarRig.await("it is gone", () -> rig.rendezvous.clients() == RANKS);
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 20);
    scheduler.go(job, Protocol.KIND_LOAD);
    assertThat(doneByAll(job).status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  @Test
  void revoke_ofTheScheduler_endsEveryRanksPartOnce() throws Exception {
    becomeReady();
    ranks[0].fill(4, 1);
    save(4);
    TestScheduler.Found found = lookup();
    long job = scheduler.newJob();
    scheduler.go(job, Protocol.KIND_LOAD);
    scheduler.send(RevokeRecord.encode(scheduler.scratch, job));
    assertThat(doneByAll(job).status()).isIn(Protocol.STATUS_REVOKED, Protocol.STATUS_VOID);
    byte[] before = ranks[0].fill(20, 9);
    scheduler.planLoad(job, 1, found, 20);
    scheduler.send(RevokeRecord.encode(scheduler.scratch, job));
    lookup();
    assertThat(ranks[0].block(20)).isEqualTo(before);
    assertThat(scheduler.nothingReceived()).isTrue();
    assertThat(rig.count("/open_parts")).isZero();
  }

  /** Another scheduler of the same name, of a namespace of its own; the ranks stay. */
  private void succeed(String namespace) throws Exception {
    scheduler.close();
    SidecarRig.await("the old one has gone", () -> rig.rendezvous.clients() <= RANKS);
    scheduler =
        TestScheduler.joined(rig, "e", h -> h.put("world_size", RANKS).put("namespace", namespace));
  }

  @Test
  void reset_ofASuccessorThatIsNotReady_forgetsItsOwnNamespaceAndNotItsPredecessors()
      throws Exception {
    becomeReady();
    succeed("a");
    ranks[0].fill(4, 1);
    save(4);
    succeed("b");
    save(4);
    ranks[1].close();
    succeed("a");
    scheduler.send(ResetRecord.encode(scheduler.scratch, 99));
    scheduler.receive(new ResetAnswerRecord());
    join(1);
    ranks[1].makeReady();
    assertThat(lookup().servable()).as("what was saved before its reset").isZero();
    succeed("b");
    assertThat(lookup().servable()).as("another namespace").isEqualTo(1);
  }

  @Test
  void go_ofAnotherSchedulersJob_breaksTheProtocol() throws Exception {
    becomeReady();
    scheduler.go(Protocol.jobId(scheduler.sessionId + 100, 1), Protocol.KIND_LOAD);
    SidecarRig.await("the end of that session", scheduler::ended);
  }
}
