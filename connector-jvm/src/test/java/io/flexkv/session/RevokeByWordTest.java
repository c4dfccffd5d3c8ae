package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.device.RankLayout;
import io.flexkv.device.SliceLimits;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.Protocol;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A worker takes a load back by the word that its {@code Go} named, while the load is copied. */
class RevokeByWordTest {
  @TempDir Path folder;
  private final FakeEngine memory = new FakeEngine(4096);
  private final CopyOnWriteArrayList<FakeDevice> devices = new CopyOnWriteArrayList<>();

  private FakeDevice aSliceAtATime(RankLayout layout) {
    FakeDevice device = memory.open(layout);
    device.limits = new SliceLimits(64, TestRank.BLOCK, 1);
    devices.add(device);
    return device;
  }

  @Test
  void word_setWhileALoadRuns_endsItAfterTheSliceThatIsOnItsWay() throws Exception {
    SidecarRig rig = new SidecarRig(folder, this::aSliceAtATime);
    try (TestScheduler scheduler = TestScheduler.joined(rig, "e");
        TestRank worker = TestRank.joined(rig, "e")) {
      worker.makeReady();
      scheduler.extend(1);
      assertThat(scheduler.save(worker, 1, 4, 5, 6).committed()).isEqualTo(3);
      TestScheduler.Found found = scheduler.lookup(1);
      FakeDevice device = devices.getFirst();
      device.held = true;
      int submitted = device.submitted.get();
      long job = scheduler.newJob();
      scheduler.planLoad(job, 1, found, 20, 21, 22);
      worker.go(job, Protocol.KIND_LOAD);
      SidecarRig.await("the copy runs", () -> device.submitted.get() == submitted + 1);
      worker.file.set(ValueLayout.JAVA_LONG, worker.geometry.revokeOffset(), job);
      device.mayEnd.release(100);
      JobDoneRecord done = worker.receive(new JobDoneRecord());
      assertThat(done.jobId()).isEqualTo(job);
      assertThat(done.status()).isEqualTo(Protocol.STATUS_REVOKED);
      assertThat(device.submitted).hasValue(submitted + 1);
      device.held = false;
    } finally {
      rig.close();
    }
  }
}
