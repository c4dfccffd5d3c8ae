package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.DeviceException;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import io.flexkv.device.SliceLimits;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicBoolean;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Saves of one rank, each turn taken by the test itself. */
@Timeout(60)
final class CopyAgentTest {
  private static final int EVENTS = 3;

  private final CompletionQueue ends = new CompletionQueue(64, () -> {});
  private int asked;
  private DeviceException.@Nullable Kind errorOfFences;
  private MoverFixture f;
  private CopyAgent agent;

  @BeforeEach
  void start() throws Exception {
    f = MoverFixture.held(new SliceLimits(8, 2048, 2));
    f.fillEngine(1);
    FenceRing fences = new FenceRing(EVENTS, index -> isComplete(), (index, sequence) -> {});
    agent =
        new CopyAgent(
            "test",
            Direction.SAVE,
            new Geometry(f.device),
            f.device.openStream(Direction.SAVE),
            fences,
            ends,
            new AtomicBoolean(),
            System::nanoTime,
            0,
            f.limits,
            4);
  }

  @AfterEach
  void stop() {
    agent.onClose();
    f.close();
  }

  private boolean isComplete() throws DeviceException {
    asked++;
    if (errorOfFences != null) {
      throw new DeviceException(errorOfFences, "the event alone cannot be asked");
    }
    return false;
  }

  private void turns(int count) {
    for (int i = 0; i < count; i++) {
      agent.doWork();
    }
  }

  private void submit(TransferJob job) {
    assertThat(agent.offer(job)).isTrue();
    turns(1);
  }

  private Completion ended(long jobId, Completion.Status status) {
    Completion done = Objects.requireNonNull(ends.poll());
    assertThat(done.jobId()).isEqualTo(jobId);
    assertThat(done.status()).isEqualTo(status);
    assertThat(done.drained()).isTrue();
    return done;
  }

  private TransferJob behind(FencePoint fence, long id) {
    return f.job(id, Direction.SAVE, fence, null, 40);
  }

  private void endSlices(int count) {
    f.device.mayEnd.release(count);
    turns(1);
  }

  @Test
  void fenceThatCannotBeAsked_copiesOfOthersOnTheirWay_areAwaitedFirst() {
    submit(f.job(1, Direction.SAVE, 1, 2));
    submit(f.job(2, Direction.SAVE, 3, 4, 5, 6));
    assertThat(f.device.submitted.get()).as("one of each").isEqualTo(2);
    errorOfFences = DeviceException.Kind.GONE;
    submit(behind(new FencePoint(0, 1), 3));
    assertThat(ended(3, Completion.Status.FAILED).cause()).contains("cannot be asked");
    turns(20);
    assertThat(ends.poll()).as("said to have ended while its copy runs").isNull();

    endSlices(1);
    ended(1, Completion.Status.OK);
    assertThat(f.blockInHost(2)).isEqualTo(f.blockInEngine(2));
    turns(20);
    assertThat(ends.poll()).isNull();
    endSlices(1);
    assertThat(ended(2, Completion.Status.FAILED).blocksOk().cardinality()).isEqualTo(2);
    assertThat(f.device.submitted.get()).as("nothing more is begun").isEqualTo(2);
    submit(f.job(4, Direction.SAVE, 1));
    ended(4, Completion.Status.FAILED);
  }

  @Test
  void abandonedFenceThatCannotBeAsked_copiesOfOthersOnTheirWay_areAwaitedFirst() {
    submit(f.job(1, Direction.SAVE, 1, 2));
    abandon(2, new FencePoint(0, 1));
    errorOfFences = DeviceException.Kind.GONE;
    turns(20);
    assertThat(ends.poll()).as("said to have ended while its copy runs").isNull();
    endSlices(1);
    ended(1, Completion.Status.OK);
  }

  @Test
  void abandonedFenceWithAnErrorOfItsOwn_isForgottenAndTheOthersGoOn() {
    abandon(1, new FencePoint(0, 1));
    errorOfFences = DeviceException.Kind.COPY;
    turns(1);
    errorOfFences = null;
    asked = 0;
    turns(5);
    assertThat(asked).isZero();
    submit(f.job(2, Direction.SAVE, 1, 2));
    endSlices(1);
    ended(2, Completion.Status.OK);
  }

  @Test
  void abandonedFences_ofManyJobs_areAskedOnceAnEvent() {
    for (int i = 1; i <= 1000; i++) {
      abandon(i, new FencePoint(i % 2, i));
    }
    asked = 0;
    turns(1);
    assertThat(asked).isEqualTo(2);
  }

  @Test
  void internalErrorAfterGivingUp_whatWasGivenUp_isNeverSaidToHaveEnded() {
    submit(f.job(1, Direction.SAVE, 1, 2));
    agent.stop(System.nanoTime());
    turns(1);
    Completion given = Objects.requireNonNull(ends.poll());
    assertThat(given.drained()).isFalse();
    assertThat(agent.finished()).as("it goes on asking").isFalse();
    f.device.beforeCopy =
        () -> {
          throw new IllegalStateException("told to");
        };
    endSlices(1);
    turns(20);
    assertThat(ends.poll()).isNull();
    assertThat(agent.finished()).isTrue();
    assertThat(agent.allDrained()).isFalse();
    f.device.openStreams.decrementAndGet(); // which the agent leaves open
  }

  /** A job that is taken back before its fence is reached. */
  private void abandon(long id, FencePoint fence) {
    assertThat(agent.offer(behind(fence, id))).isTrue();
    assertThat(agent.revoke(id)).isTrue();
    turns(1);
    ended(id, Completion.Status.REVOKED);
  }
}
