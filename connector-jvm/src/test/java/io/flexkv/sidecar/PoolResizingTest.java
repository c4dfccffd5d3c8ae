package io.flexkv.sidecar;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.SsdConfig;
import io.flexkv.cache.WritePolicy;
import io.flexkv.device.CudaCopyPath;
import io.flexkv.device.Devices;
import io.flexkv.protocol.RequestException;
import io.flexkv.session.SsdUse;
import io.flexkv.tier.HostPool;
import io.flexkv.tier.ssd.MemorySsdStore;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class PoolResizingTest {
  private static final long EXTENT = 1 << 20;
  private static final long PATIENCE_S = 20;

  /** The sizes must not stay as they are for ever, and what is pinned must not be given back. */
  @Test
  void giveBack_diskDoesNotLetGo_memoryStaysAndSizesCanBeChangedAgain() throws Exception {
    CountDownLatch asked = new CountDownLatch(1);
    MemorySsdStore store = new MemorySsdStore(EXTENT, 1, false);
    store.registering =
        () -> {
          asked.countDown();
          return CompletableFuture.failedFuture(new IllegalStateException("test"));
        };
    SsdConfig config = new SsdConfig(WritePolicy.THROUGH, 1, 1, 1, 1, 1, 0, 1);
    try (Arena arena = Arena.ofShared();
        Devices devices = devices(arena)) {
      HostPool pool = HostPool.create("test", 4 * EXTENT, EXTENT, arena);
      var end = pool.segments().getFirst().asSlice(3 * EXTENT, 8);
      end.set(ValueLayout.JAVA_LONG, 0, 42);
      try (PoolResizing resizing =
          new PoolResizing(
              pool,
              devices,
              new SsdUse(store, config, 1),
              new MachineMemory(1L << 40, "a test has"),
              0)) {
        pool.resize(resizing.prepare(2 * EXTENT));
        resizing.changed();
        assertThat(asked.await(PATIENCE_S, TimeUnit.SECONDS)).isTrue();
        pool.resize(prepareInTheEnd(resizing, 4 * EXTENT));
        resizing.changed();
        assertThat(end.get(ValueLayout.JAVA_LONG, 0)).isEqualTo(42);
      }
    }
  }

  private static Devices devices(Arena arena) throws Exception {
    return new Devices(
        HostPool.create("unused", EXTENT, EXTENT, arena).segments(), CudaCopyPath.AUTO);
  }

  private static long prepareInTheEnd(PoolResizing resizing, long bytes) throws Exception {
    long begin = System.nanoTime();
    while (true) {
      try {
        return resizing.prepare(bytes);
      } catch (RequestException e) {
        assertThat(System.nanoTime() - begin)
            .as("%s", e.getMessage())
            .isLessThan(TimeUnit.SECONDS.toNanos(PATIENCE_S));
        Thread.sleep(1);
      }
    }
  }
}
