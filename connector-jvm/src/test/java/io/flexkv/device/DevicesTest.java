package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.InstanceOfAssertFactories.type;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** Two GPUs, of which the driver hangs while it maps memory of the first. */
class DevicesTest {
  private static final int PATIENCE_S = 30;
  private static final String HANGING = "GPU-0a";
  private static final String OTHER = "GPU-0b";

  private final Semaphore hanging = new Semaphore(0);
  private final CountDownLatch answers = new CountDownLatch(1);
  private final AtomicInteger pinnersOpen = new AtomicInteger();
  private final Devices devices = new Devices(new TwoGpus());

  private final class TwoGpus implements Gpus {
    @Override
    public void load() {}

    @Override
    public DeviceMemory open(RankLayout layout) {
      AllocationHandle first = layout.allocations().getFirst();
      if (first instanceof AllocationHandle.CudaIpc memory && memory.gpuUuid().equals(HANGING)) {
        hanging.release();
        await(answers);
      }
      return new FakeDevice(layout);
    }

    @Override
    public PoolPinner pin(String gpu, BooleanSupplier pagesAreThere, long meanwhile) {
      pinnersOpen.incrementAndGet();
      return new PoolPinner() {
        @Override
        public void resized() {}

        @Override
        public void awaitUnpinned() {}

        @Override
        public void close() {
          pinnersOpen.decrementAndGet();
        }
      };
    }
  }

  private static void await(CountDownLatch latch) {
    try {
      assertThat(latch.await(2 * PATIENCE_S, TimeUnit.SECONDS)).isTrue();
    } catch (InterruptedException e) {
      throw new AssertionError(e);
    }
  }

  @AfterEach
  void letGo() {
    answers.countDown();
  }

  private static RankLayout on(String gpu) throws DeviceException {
    return RankLayout.of(
        List.of(new AllocationHandle.CudaIpc("ab".repeat(64), 0, 4096, gpu)),
        List.of(new Region(0, 0, 4096, 4096, 1)),
        "test");
  }

  private static <T> Future<T> inThread(Callable<T> body) {
    FutureTask<T> task = new FutureTask<>(body);
    Thread.ofPlatform().daemon().start(task);
    return task;
  }

  private Future<DeviceMemory> open(String gpu) {
    return inThread(() -> devices.open(on(gpu)));
  }

  private Future<DeviceMemory> openHanging() throws InterruptedException {
    Future<DeviceMemory> opening = open(HANGING);
    assertThat(hanging.tryAcquire(PATIENCE_S, TimeUnit.SECONDS)).isTrue();
    return opening;
  }

  @Test
  void open_whileAnotherGpuHangs_isDone() throws Exception {
    Future<DeviceMemory> first = openHanging();
    open(OTHER).get(PATIENCE_S, TimeUnit.SECONDS).close();
    assertThat(first.isDone()).isFalse();
    answers.countDown();
    first.get(PATIENCE_S, TimeUnit.SECONDS).close();
    assertThat(pinnersOpen).as("one pins for all").hasValue(1);
  }

  @Test
  void close_whileAGpuHangs_doesNotWait_andNothingIsPinnedAfterIt() throws Exception {
    Future<DeviceMemory> first = openHanging();
    inThread(
            () -> {
              devices.close();
              return true;
            })
        .get(PATIENCE_S, TimeUnit.SECONDS);
    answers.countDown();
    first.get(PATIENCE_S, TimeUnit.SECONDS).close();
    assertThat(pinnersOpen).hasValue(0);
  }

  @Test
  void open_manyWaitForAGpuThatHangs_isRefusedThereAndNotElsewhere() throws Exception {
    List<Future<DeviceMemory>> waiting = new ArrayList<>();
    for (int i = 0; i < Devices.MAX_OPENING; i++) {
      waiting.add(openHanging());
    }
    assertThatThrownBy(() -> open(HANGING).get(PATIENCE_S, TimeUnit.SECONDS))
        .hasMessageContaining("GPU 0a does not answer")
        .hasMessageContaining("%d ranks wait", Devices.MAX_OPENING)
        .cause()
        .asInstanceOf(type(DeviceException.class))
        .extracting(DeviceException::kind)
        .as("GONE would tell that its context is lost, and end the sidecar with all it holds")
        .isEqualTo(DeviceException.Kind.UNSUPPORTED);
    open(OTHER).get(PATIENCE_S, TimeUnit.SECONDS).close();
    answers.countDown();
    for (Future<DeviceMemory> each : waiting) {
      each.get(PATIENCE_S, TimeUnit.SECONDS).close();
    }
    devices.open(on(HANGING)).close();
    devices.close();
    assertThat(pinnersOpen).hasValue(0);
  }
}
