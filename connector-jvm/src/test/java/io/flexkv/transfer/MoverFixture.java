package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.AvailableBlocks;
import io.flexkv.device.DeviceException;
import io.flexkv.device.Direction;
import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.device.FenceRing;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import io.flexkv.device.SliceLimits;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.BitSet;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/**
 * A mover over a fake device of 64 blocks in two regions (1,000 and 24 bytes), and host slots of
 * 1,024 bytes.
 */
final class MoverFixture implements AutoCloseable {
  static final int BLOCKS = 64;
  static final int PART = 1024;
  static final long SECOND = 1_000_000_000L;

  /** Long enough for a test to see it. */
  static final long SAVE_PAUSE_NANOS = 10_000_000;

  final Arena arena = Arena.ofShared();
  final FakeEngine engine = new FakeEngine(BLOCKS * 1000L, BLOCKS * 32L + 8);
  final FakeDevice device;
  final FenceRing fences;
  final List<long[]> fencesSeen = new CopyOnWriteArrayList<>();
  final MemorySegment host = arena.allocate((long) BLOCKS * PART, 8);
  final MemorySegment revokeWords = arena.allocate(64, 8);
  final Semaphore posted = new Semaphore(0);
  final CompletionQueue completions;
  final MoveLimits limits = new MoveLimits();

  /** Whether telling the worker of a fence fails. */
  volatile boolean failWhenSeen;

  final Mover mover;

  MoverFixture() throws DeviceException {
    this(256, null);
  }

  /** With a device that ends a slice only when it may. */
  static MoverFixture held(SliceLimits limits) throws DeviceException {
    return new MoverFixture(
        256,
        device -> {
          device.held = true;
          device.limits = limits;
        });
  }

  MoverFixture(int capacity, java.util.function.@Nullable Consumer<FakeDevice> prepare)
      throws DeviceException {
    RankLayout layout =
        RankLayout.of(
            engine.allocations(),
            List.of(new Region(0, 0, 1000, 1000, BLOCKS), new Region(1, 8, 32, 24, BLOCKS)),
            "test");
    device = engine.open(layout);
    if (prepare != null) {
      prepare.accept(device);
    }
    fences =
        device.openFences(
            List.of(new byte[0], new byte[0], new byte[0]),
            (index, sequence) -> {
              if (failWhenSeen) {
                throw new IllegalArgumentException("no such seen word");
              }
              fencesSeen.add(new long[] {index, sequence});
            });
    completions = new CompletionQueue(capacity, posted::release);
    mover =
        Mover.start(
            "test", device, fences, completions, System::nanoTime, SAVE_PAUSE_NANOS, limits);
  }

  long slot(int index) {
    return host.address() + (long) index * PART;
  }

  /** A job over these blocks, each to the slot of its own number. */
  TransferJob job(long id, Direction direction, int... blocks) {
    return job(id, direction, null, null, blocks);
  }

  TransferJob job(
      long id,
      Direction direction,
      @Nullable FencePoint fence,
      @Nullable GenerationCheck generations,
      int... blocks) {
    long[] slots = new long[blocks.length];
    for (int i = 0; i < blocks.length; i++) {
      slots[i] = slot(blocks[i]);
    }
    return new TransferJob(
        id,
        7,
        direction,
        blocks,
        slots,
        fence,
        new RevokeWord(revokeWords, 8 * (id % 8)),
        System.nanoTime() + 30 * SECOND,
        generations);
  }

  /** A load over these blocks, as they come. */
  TransferJob job(long id, AvailableBlocks available, int... blocks) {
    TransferJob all = job(id, Direction.LOAD, blocks);
    return new TransferJob(
        id,
        all.part(),
        all.direction(),
        all.gpuBlocks(),
        all.hostAddresses(),
        null,
        all.revoke(),
        all.deadlineNanos(),
        null,
        available);
  }

  void revokeByWord(long id) {
    ValueLayout.JAVA_LONG.varHandle().setRelease(revokeWords, 8 * (id % 8), id);
  }

  Completion next() throws InterruptedException {
    assertThat(posted.tryAcquire(10, TimeUnit.SECONDS)).as("a completion within 10 s").isTrue();
    return Objects.requireNonNull(completions.poll());
  }

  /** The first blocks of a job. */
  static BitSet first(int count) {
    BitSet set = new BitSet();
    set.set(0, count);
    return set;
  }

  /** Waits for a condition that other threads bring about; fails after 10 s. */
  static void await(String what, java.util.function.BooleanSupplier condition) {
    long deadline = System.nanoTime() + 10 * SECOND;
    while (!condition.getAsBoolean()) {
      assertThat(System.nanoTime()).as("within 10 s: " + what).isLessThan(deadline);
      Thread.onSpinWait();
    }
  }

  byte[] fillEngine(long seed) {
    byte[] bytes = new byte[BLOCKS * 1000];
    new Random(seed).nextBytes(bytes);
    engine.poke(0, 0, bytes);
    byte[] small = new byte[BLOCKS * 32 + 8];
    new Random(~seed).nextBytes(small);
    engine.poke(1, 0, small);
    return bytes;
  }

  byte[] blockInEngine(int block) {
    byte[] image = new byte[PART];
    System.arraycopy(engine.peek(0, block * 1000L, 1000), 0, image, 0, 1000);
    System.arraycopy(engine.peek(1, 8 + block * 32L, 24), 0, image, 1000, 24);
    return image;
  }

  byte[] blockInHost(int block) {
    return host.asSlice((long) block * PART, PART).toArray(ValueLayout.JAVA_BYTE);
  }

  @Override
  public void close() {
    device.held = false;
    device.mayEnd.release(1 << 20);
    assertThat(mover.stop(5 * SECOND)).as("drained").isTrue();
    assertThat(device.openStreams.get()).as("streams left open").isZero();
    engine.close();
    arena.close();
  }
}
