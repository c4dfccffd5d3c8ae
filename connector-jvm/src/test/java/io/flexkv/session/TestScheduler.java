package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.PlanLoadRecord;
import io.flexkv.protocol.PlanSaveRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.SaveDoneRecord;
import java.io.IOException;
import java.util.Random;
import java.util.function.Consumer;

/** An engine's scheduler: all its requests begin with one and the same chain. */
final class TestScheduler extends TestClient {
  /** Blocks of the chain. */
  static final int CHAIN = 8;

  static final int HASH_BYTES = 32;

  private final byte[] hashes = randomHashes(3, CHAIN);
  private long counter;

  /** An answered lookup; the record itself lies where the next one comes. */
  record Found(int status, long servable, long leaseId, int generation) {}

  private TestScheduler(SidecarRig rig) throws IOException {
    super(rig.socketPath, Protocol.ROLE_SCHEDULER, RING);
  }

  static TestScheduler joined(SidecarRig rig, String instance) throws Exception {
    return joined(rig, instance, hello -> {});
  }

  static TestScheduler joined(SidecarRig rig, String instance, Consumer<ObjectNode> change)
      throws Exception {
    TestScheduler scheduler = new TestScheduler(rig);
    scheduler.join(instance, change);
    return scheduler;
  }

  static byte[] randomHashes(long seed, int blocks) {
    byte[] hashes = new byte[HASH_BYTES * blocks];
    new Random(seed).nextBytes(hashes);
    return hashes;
  }

  /** Names a request with the chain. */
  void extend(long request) throws Exception {
    extend(request, hashes);
  }

  void extend(long request, byte[] chain) throws Exception {
    send(ExtendRecord.encode(scratch, request, 0, HASH_BYTES, chain, new byte[0], new byte[0]));
  }

  /** Asks for all of the chain. */
  Found lookup(long request) throws Exception {
    return lookup(request, CHAIN);
  }

  Found lookup(long request, int chain) throws Exception {
    send(LookupRecord.encode(scratch, ++counter, request, chain, 0, 1000, 0));
    LookupAnswerRecord answer = receive(new LookupAnswerRecord());
    assertThat(answer.queryId()).isEqualTo(counter);
    return new Found(
        answer.status(), answer.servable(), answer.leaseId(), (int) answer.generation());
  }

  long newJob() {
    return Protocol.jobId(sessionId, ++counter);
  }

  /** The first blocks of the request's chain lie in these of the engine's, never used before. */
  void planSave(long job, long request, int... blocks) throws Exception {
    send(PlanSaveRecord.encode(scratch, job, request, 0, blocks, new long[blocks.length], 0));
  }

  /** The first blocks that were found go to these of the engine's. */
  void planLoad(long job, long request, Found found, int... blocks) throws Exception {
    send(
        PlanLoadRecord.encode(
            scratch, job, request, found.leaseId, found.generation, 0, blocks, 0));
  }

  /** Plans a save and lets the engine's only rank do it; what of it was kept. */
  SaveDoneRecord save(TestRank rank, long request, int... blocks) throws Exception {
    long job = newJob();
    planSave(job, request, blocks);
    rank.go(job, Protocol.KIND_SAVE);
    assertThat(rank.receive(new JobDoneRecord()).jobId()).isEqualTo(job);
    SaveDoneRecord saved = receive(new SaveDoneRecord());
    assertThat(saved.jobId()).isEqualTo(job);
    return saved;
  }
}
