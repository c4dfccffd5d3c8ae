package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.KvNoticeRecord;
import io.flexkv.protocol.NoticesTakenRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ResetAnswerRecord;
import io.flexkv.protocol.ResetRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** KV notices through real sessions: who hears of a save, of a reset, and what it costs. */
class EventSessionTest {
  private static final int BLOCKS = 4;
  private static final int TOKENS = 16;

  @TempDir Path folder;
  private SidecarRig rig;
  private TestScheduler scheduler;
  private TestRank worker;
  private final byte[] hashes = new byte[32 * BLOCKS];
  private final byte[] tokens = new byte[4 * TOKENS * BLOCKS];

  @BeforeEach
  void start() throws Exception {
    new Random(3).nextBytes(hashes);
    new Random(4).nextBytes(tokens);
    rig = new SidecarRig(folder);
    scheduler = scheduler("e", true);
    worker = TestRank.joined(rig, "e");
    worker.makeReady();
  }

  @AfterEach
  void stop() throws Exception {
    scheduler.close();
    worker.close();
    rig.close();
  }

  private TestScheduler scheduler(String instance, boolean events) throws Exception {
    return TestScheduler.joined(rig, instance, hello -> hello.put("events", events));
  }

  private void save(TestScheduler by, boolean hears) throws Exception {
    by.send(ExtendRecord.encode(by.scratch, 1, 0, 32, hashes, tokens, new byte[0]));
    long job = by.newJob();
    by.planSave(job, 1, 3, 4, 5, 6);
    worker.go(job, Protocol.KIND_SAVE);
    worker.receive(new JobDoneRecord());
    if (hears) {
      hearStored(by);
    }
    assertThat(by.receive(new SaveDoneRecord()).committed()).isEqualTo(BLOCKS);
  }

  private static KvNoticeRecord notice(TestClient client) throws Exception {
    return client.receive(new KvNoticeRecord());
  }

  private static void hearEmptyListing(TestClient client) throws Exception {
    assertThat(notice(client).kind()).isEqualTo(Protocol.NOTICE_LIST_BEGIN);
    assertThat(notice(client).kind()).isEqualTo(Protocol.NOTICE_LIST_END);
  }

  private void hearStored(TestClient client) throws Exception {
    KvNoticeRecord stored = notice(client);
    assertThat(stored.kind()).isEqualTo(Protocol.NOTICE_STORED);
    assertThat(stored.tier()).isEqualTo(Protocol.TIER_HOST);
    assertThat(stored.count()).isEqualTo(BLOCKS);
    assertThat(stored.parentBytes()).isZero();
    byte[] body = bytes(stored, stored.hashesOffset(), hashes.length);
    assertThat(body).isEqualTo(hashes);
    assertThat(bytes(stored, stored.tokensOffset(), tokens.length)).isEqualTo(tokens);
  }

  private static byte[] bytes(KvNoticeRecord record, long offset, long length) {
    return record
        .segment()
        .asSlice(offset, length)
        .toArray(java.lang.foreign.ValueLayout.JAVA_BYTE);
  }

  @Test
  void save_isToldToItsScheduler_beforeItsSaveDone() throws Exception {
    hearEmptyListing(scheduler);
    save(scheduler, true);
    assertThat(rig.status().path("events").path("stored_told").asInt()).isEqualTo(BLOCKS);
  }

  @Test
  void save_isToldToEverySchedulerOfTheNamespace_alsoToOneThatComesLater() throws Exception {
    hearEmptyListing(scheduler);
    save(scheduler, true);
    try (TestScheduler second = scheduler("f", true);
        TestRank rank = TestRank.joined(rig, "f")) {
      rank.makeReady();
      assertThat(notice(second).kind()).isEqualTo(Protocol.NOTICE_LIST_BEGIN);
      hearStored(second);
      assertThat(notice(second).kind()).isEqualTo(Protocol.NOTICE_LIST_END);
    }
  }

  @Test
  void reset_byOne_isToldToAll() throws Exception {
    hearEmptyListing(scheduler);
    save(scheduler, true);
    try (TestScheduler second = scheduler("f", false);
        TestRank rank = TestRank.joined(rig, "f")) {
      rank.makeReady();
      second.send(ResetRecord.encode(second.scratch, 9));
      assertThat(second.receive(new ResetAnswerRecord()).generation()).isEqualTo(1);
      assertThat(notice(scheduler).kind()).isEqualTo(Protocol.NOTICE_CLEARED);
      assertThat(second.nothingReceived()).isTrue();
    }
  }

  @Test
  void listing_onDemand_namesAllAgain() throws Exception {
    hearEmptyListing(scheduler);
    save(scheduler, true);
    scheduler.send(NoticesTakenRecord.encode(scheduler.scratch, 3, Protocol.NOTICES_ANEW));
    assertThat(notice(scheduler).kind()).isEqualTo(Protocol.NOTICE_LIST_BEGIN);
    hearStored(scheduler);
    assertThat(notice(scheduler).kind()).isEqualTo(Protocol.NOTICE_LIST_END);
  }

  @Test
  void schedulerWithoutEvents_hearsNothing_andNothingIsKept() throws Exception {
    try (TestScheduler second = scheduler("f", false);
        TestRank rank = TestRank.joined(rig, "f")) {
      rank.makeReady();
      worker.close();
      worker = rank;
      save(second, false);
      assertThat(second.nothingReceived()).isTrue();
      assertThat(rig.status().path("events").path("known_blocks").asInt()).isZero();
    }
  }

  @Test
  void takenMoreThanWereSent_endsTheSession() throws Exception {
    hearEmptyListing(scheduler);
    scheduler.send(NoticesTakenRecord.encode(scheduler.scratch, 99, 0));
    SidecarRig.await("the end of the session", scheduler::ended);
  }
}
