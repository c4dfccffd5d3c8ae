package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.device.DeviceException;
import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RequestException;
import io.flexkv.protocol.RevokeRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A rank whose device takes no copies any more, while its engine lives and asks for hits. */
class FailedRankTest {
  @TempDir Path folder;
  private final FakeEngine memory = new FakeEngine(4096);
  private final CopyOnWriteArrayList<FakeDevice> devices = new CopyOnWriteArrayList<>();
  private SidecarRig rig;
  private TestScheduler scheduler;
  private TestRank worker;
  private volatile boolean refuses;
  private volatile String lostGpu = "none";
  private final CompletableFuture<String> endOfProcess = new CompletableFuture<>();

  @BeforeEach
  void saveOneBlock() throws Exception {
    rig =
        new SidecarRig(
            folder,
            layout -> {
              if (refuses) {
                throw new DeviceException(DeviceException.Kind.UNSUPPORTED, "told to refuse");
              }
              if (layout.gpu().equals(lostGpu)) {
                throw new DeviceException(DeviceException.Kind.GONE, "told that it is lost");
              }
              FakeDevice device = memory.open(layout);
              devices.add(device);
              return device;
            });
    rig.agent.endWith(endOfProcess::complete);
    scheduler = TestScheduler.joined(rig, "e");
    joinAndRegister();
    scheduler.extend(1);
    assertThat(scheduler.save(worker, 1, 4).committed()).isEqualTo(1);
    assertThat(lookup().servable()).isEqualTo(1);
  }

  @AfterEach
  void stop() throws Exception {
    scheduler.close();
    worker.close();
    rig.close();
  }

  private void joinAndRegister() throws Exception {
    worker = TestRank.joined(rig, "e");
    ObjectNode args = worker.provedRegistration();
    args.putObject("fences").put("kind", "cuda_ipc_event").putArray("handles").add("00");
    worker.register(args);
  }

  private TestScheduler.Found lookup() throws Exception {
    return scheduler.lookup(1);
  }

  private long planLoad() throws Exception {
    TestScheduler.Found found = lookup();
    assertThat(found.servable()).isEqualTo(1);
    long job = scheduler.newJob();
    scheduler.planLoad(job, 1, found, 20);
    return job;
  }

  private long startLoad() throws Exception {
    long job = planLoad();
    worker.go(job, Protocol.KIND_LOAD);
    return job;
  }

  private JobDoneRecord load() throws Exception {
    startLoad();
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(scheduler.receive(new JobDoneRecord()).status()).isEqualTo(done.status());
    return done;
  }

  private void loseTheDevice() {
    devices.getLast().gone = true;
  }

  private void comeBack() throws Exception {
    SidecarRig.await("the end of the session", worker::ended);
    worker.close();
    joinAndRegister();
  }

  private String missing() {
    return rig.text("/instances/0/missing");
  }

  @Test
  void deviceLost_afterOneFailedLoad_nothingIsPromisedUntilTheRankRegistersAnew() throws Exception {
    loseTheDevice();
    assertThat(load().status()).isEqualTo(Protocol.STATUS_FAILED);
    TestScheduler.Found next = lookup();
    assertThat(next.status()).isEqualTo(Protocol.LOOKUP_NOT_READY);
    assertThat(next.servable()).isZero();

    comeBack();
    SidecarRig.await("its streams are closed", () -> devices.getFirst().openStreams.get() == 0);
    assertThat(load().status()).isEqualTo(Protocol.STATUS_OK);
  }

  @Test
  void everyCopyRefused_afterThree_theRankRegistersAnew() throws Exception {
    devices.getFirst().refusesCopies = true;
    for (int i = 0; i < 3; i++) {
      assertThat(load().status()).isEqualTo(Protocol.STATUS_FAILED);
    }
    comeBack();
    assertThat(load().status()).isEqualTo(Protocol.STATUS_OK);
  }

  /** A load whose copy does not end, and the rank's saves, which all fail; returns the load. */
  private long loseTheSavesBesideALoad() throws Exception {
    FakeDevice device = devices.getFirst();
    device.held = true;
    int submitted = device.submitted.get();
    final long load = startLoad();
    SidecarRig.await("the load's copy runs", () -> device.submitted.get() > submitted);
    device.refusesCopies = true;
    for (int request = 2; request < 5; request++) {
      scheduler.extend(request, TestScheduler.randomHashes(40 + request, 1));
      long save = scheduler.newJob();
      scheduler.planSave(save, request, 4 + request);
      worker.go(save, Protocol.KIND_SAVE);
      JobDoneRecord done = worker.receive(new JobDoneRecord());
      assertThat(done.jobId()).isEqualTo(save);
      assertThat(done.status()).as("save %d", request).isEqualTo(Protocol.STATUS_FAILED);
      assertThat(scheduler.receive(new SaveDoneRecord()).committed()).isZero();
    }
    SidecarRig.await("it is taken out", () -> missing().contains("rank 0"));
    return load;
  }

  @Test
  void savesFailForGood_whileALoadsCopyRuns_itsWorkerHearsOfItBeforeItsSessionEnds()
      throws Exception {
    long load = loseTheSavesBesideALoad();
    assertThat(worker.ended()).as("the load would not be answered").isFalse();
    devices.getFirst().held = false;
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(load);
    assertThat(done.status()).isEqualTo(Protocol.STATUS_OK);
    assertThat(scheduler.receive(new JobDoneRecord()).jobId()).isEqualTo(load);
    comeBack();
    assertThat(load().status()).isEqualTo(Protocol.STATUS_OK);
  }

  @Test
  void savesFailForGood_whileALoadsCopyDoesNotEnd_theSessionEndsAllTheSame() throws Exception {
    loseTheSavesBesideALoad();
    rig.control.change(
        agent -> agent.readiness().endFailedWorkers(System.nanoTime() + Registration.DRAIN_NANOS));
    SidecarRig.await("the end of the session", worker::ended);
    devices.getFirst().held = false;
  }

  /** A load of another request than 1. */
  private void loseTheDeviceInALoadOf(long request) throws Exception {
    scheduler.extend(request);
    long job = scheduler.newJob();
    scheduler.planLoad(job, request, scheduler.lookup(request), 21);
    loseTheDevice();
    worker.go(job, Protocol.KIND_LOAD);
    assertThat(worker.receive(new JobDoneRecord()).jobId()).isEqualTo(job);
    assertThat(scheduler.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  private void assertFailedAtItsGo(long job) throws Exception {
    worker.go(job, Protocol.KIND_LOAD);
    JobDoneRecord done = worker.receive(new JobDoneRecord());
    assertThat(done.jobId()).isEqualTo(job);
    assertThat(done.status()).isEqualTo(Protocol.STATUS_FAILED);
  }

  /** Its worker would wait for the end of copies that never began, and then kill the process. */
  @Test
  void go_writtenWhenTheSessionHasEnded_isAnsweredThere() throws Exception {
    long planned = planLoad();
    loseTheDeviceInALoadOf(2);
    SidecarRig.await("the end of the session", worker::ended);
    assertFailedAtItsGo(planned);
    assertFailedAtItsGo(scheduler.newJob());
    assertThat(rig.count("/open_parts")).isZero();
    comeBack();
    assertThat(load().status()).isEqualTo(Protocol.STATUS_OK);
  }

  @Test
  void sessionThatHasEnded_isListenedToForAWhileOnly() throws Exception {
    loseTheDevice();
    load();
    SidecarRig.await("the end of the session", worker::ended);
    scheduler.close();
    SidecarRig.await("nobody is here", () -> rig.rendezvous.clients() == 0);
    assertFailedAtItsGo(scheduler.newJob());
    assertThat(isListenedToAt(System.nanoTime())).isTrue();
    assertThat(isListenedToAt(System.nanoTime() + Farewells.NANOS)).isFalse();
  }

  private boolean isListenedToAt(long nanos) throws Exception {
    AtomicBoolean listens = new AtomicBoolean();
    MemorySegment record = worker.arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
    rig.control.change(agent -> {
      agent.farewells().doWork(record, nanos);
      listens.set(!agent.farewells().isEmpty());
    });
    return listens.get();
  }

  @Test
  void deviceLost_whileNoJobIsHere_isSeenToo() throws Exception {
    long job = planLoad();
    worker.goBehindEvent(job);
    worker.send(RevokeRecord.encode(worker.scratch, job));
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_REVOKED);
    loseTheDevice(); // which the fence that nobody waits for any more shows
    comeBack();
  }

  @Test
  void deviceLostAgain_theRankIsLeftAloneForAWhile() throws Exception {
    loseTheDevice();
    load();
    comeBack();
    loseTheDevice();
    load();
    comeBack();
    assertThat(missing()).contains("failed 2 times").contains("5 s");
    assertThat(lookup().status()).isEqualTo(Protocol.LOOKUP_NOT_READY);
    rig.control.change(
        agent -> agent.readiness().resumeRanks(agent.directory().instances(), soon()));
    assertThat(missing()).isEmpty();
    assertThat(load().status()).isEqualTo(Protocol.STATUS_OK);
  }

  @Test
  void copiesGivenUp_endLater_areAnsweredThenAndTheMemoryIsClosed() throws Exception {
    FakeDevice device = devices.getFirst();
    device.held = true;
    int submitted = device.submitted.get();
    startLoad();
    SidecarRig.await("the copy runs", () -> device.submitted.get() > submitted);
    rig.control.change(
        agent -> agent.directory().instances().iterator().next().ranks[0].closeLater(1));
    SidecarRig.await(
        "it is given up", () -> rig.count("/instances/0/ranks/0/load/jobs_failed") == 1);
    assertThat(rig.count("/open_parts")).isEqualTo(1);
    assertThat(worker.nothingReceived()).as("said to have ended while its copy runs").isTrue();

    device.held = false;
    assertThat(worker.receive(new JobDoneRecord()).status()).isEqualTo(Protocol.STATUS_FAILED);
    assertThat(rig.count("/open_parts")).isZero();
    SidecarRig.await("its memory is closed", () -> device.streamsAtClose.get() == 0);
  }

  private void failAndBeRefused() throws Exception {
    loseTheDevice();
    load();
    refuses = true;
    assertThatThrownBy(this::comeBack)
        .isInstanceOf(RequestException.class)
        .hasMessageContaining("told to refuse");
  }

  private void refuseAgain(long nanosLater) throws Exception {
    rig.control.change(agent -> {
      var instances = agent.directory().instances();
      Instance ours = instances.stream().filter(i -> i.name.equals("e")).findAny().orElseThrow();
      agent.readiness().refused(ours, 0, instances, System.nanoTime() + nanosLater);
    });
  }

  @Test
  void deviceLostAndRefusedSince_theProcessEndsOnceNobodyElseIsServed() throws Exception {
    failAndBeRefused();
    refuseAgain(CopyFailures.REFUSED_NANOS / 2);
    assertThat(endOfProcess).as("it may still be back").isNotDone();
    refuses = false;
    TestRank otherWorker = TestRank.joined(rig, "other");
    TestScheduler other = TestScheduler.joined(rig, "other");
    otherWorker.makeReady();
    refuseAgain(CopyFailures.REFUSED_NANOS);
    assertThat(endOfProcess).as("another engine is served").isNotDone();
    other.close();
    otherWorker.close();
    SidecarRig.await("the other is gone", () -> rig.rendezvous.clients() == 2);
    refuseAgain(CopyFailures.REFUSED_NANOS);
    assertThat(endOfProcess).isDone();
    assertThat(endOfProcess.join()).contains("rank 0 of e").contains("takes its memory no more");
  }

  @Test
  void deviceRefusedForAWhile_andAcceptedSince_theProcessGoesOn() throws Exception {
    failAndBeRefused();
    refuses = false;
    worker.close();
    SidecarRig.await("its session is gone", () -> rig.rendezvous.clients() == 1);
    joinAndRegister();
    loseTheDevice();
    load();
    refuseAgain(CopyFailures.REFUSED_NANOS);
    assertThat(endOfProcess).as("it was back, and is refused only now").isNotDone();
  }

  private static ObjectNode onGpu(TestRank worker, String gpu) throws Exception {
    ObjectNode args = worker.provedRegistration();
    ObjectNode allocation = (ObjectNode) args.at("/layout/allocations/0");
    allocation.put("kind", "cuda_ipc").put("handle", "ab".repeat(64)).put("offset", 0);
    allocation.put("gpu_uuid", gpu);
    return args;
  }

  private void registerAtALostGpu(String gpu) throws Exception {
    ObjectNode args = onGpu(worker, gpu);
    assertThatThrownBy(() -> rig.control.register(args))
        .isInstanceOf(RequestException.class)
        .hasMessageContaining("told that it is lost");
  }

  private void engineLeavesAndComesBack() throws Exception {
    scheduler.close();
    worker.close();
    SidecarRig.await("nobody is here", () -> rig.rendezvous.clients() == 0);
    worker = TestRank.joined(rig, "e");
    scheduler = TestScheduler.joined(rig, "e");
  }

  @Test
  void gpuLost_aRestartedEngineFindsItSo_theProcessEndsAtOnce() throws Exception {
    engineLeavesAndComesBack();
    lostGpu = "0a";
    registerAtALostGpu("GPU-0A");
    assertThat(endOfProcess).isDone();
    assertThat(endOfProcess.join()).contains("GPU 0a is lost").contains("rank 0 of e");
  }

  @Test
  void gpuLost_anotherEngineIsServed_theProcessEndsOnlyIfThatOneIsByTheSameGpu() throws Exception {
    engineLeavesAndComesBack();
    try (TestRank otherWorker = TestRank.joined(rig, "other");
        TestScheduler _ = TestScheduler.joined(rig, "other")) {
      JsonNode confirmed = otherWorker.register(onGpu(otherWorker, "GPU-0b"));
      assertThat(confirmed.path("ready").asBoolean()).isTrue();
      lostGpu = "0a";
      registerAtALostGpu("GPU-0a");
      assertThat(endOfProcess).as("one is served on another GPU").isNotDone();
      lostGpu = "0b";
      registerAtALostGpu("GPU-0b");
      assertThat(endOfProcess).as("its copies will fail as well").isDone();
    }
  }

  @Test
  void engineGoneWhileItRegisters_itsMemoryIsNoGpu_theProcessGoesOn() throws Exception {
    engineLeavesAndComesBack();
    lostGpu = "";
    ObjectNode args = worker.registration();
    assertThatThrownBy(() -> rig.control.register(args)).hasMessageContaining("it is lost");
    assertThat(endOfProcess).isNotDone();
  }

  private static long soon() {
    return System.nanoTime() + CopyFailures.FIRST_PAUSE_NANOS;
  }
}
