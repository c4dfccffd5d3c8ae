package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.CopySlice;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.EngineMemory;
import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.device.FenceRing;
import io.flexkv.device.ProcessEngine;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import io.flexkv.device.SliceLimits;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Which copies a job becomes, and that random layouts, block orders and host places come through
 * whole, whatever the device prefers.
 */
@Timeout(120)
final class GeometryTest {
  private static final int BLOCKS = 40;
  private static final SliceLimits STRIDED =
      new SliceLimits(64, 1 << 20, 1 << 20, 4, 1 << 20, 4096);

  /** Layers of 256-byte rows at one stride in one allocation. */
  private static RankLayout column(EngineMemory engine, int layers) throws Exception {
    List<Region> regions = new ArrayList<>();
    for (int layer = 0; layer < layers; layer++) {
      regions.add(new Region(0, layer * 256L * BLOCKS, 256, 256, BLOCKS));
    }
    return RankLayout.of(engine.allocations(), regions, "test");
  }

  private static JobState job(int[] blocks, long[] hosts) {
    TransferJob job =
        new TransferJob(
            1, 0, Direction.LOAD, blocks, hosts, null, RevokeWord.NONE, Long.MAX_VALUE, null);
    return new JobState(job, 0);
  }

  /** Slots of 4 KiB from 1 MiB on. */
  private static long[] hosts(int... slots) {
    return Arrays.stream(slots).mapToLong(slot -> (1L << 20) + 4096L * slot).toArray();
  }

  private static CopySlice fill(RankLayout layout, FakeEngine engine, JobState state) {
    return fill(layout, engine, state, STRIDED);
  }

  private static CopySlice fill(
      RankLayout layout, FakeEngine engine, JobState state, SliceLimits limits) {
    CopySlice slice = new CopySlice(64);
    new Geometry(engine.open(layout)).fill(slice, state, limits, limits.bytes());
    assertThat(state.allSubmitted()).isTrue();
    return slice;
  }

  @Test
  void fill_layersAtOneStrideInOneAllocation_isOneCopyABlock() throws Exception {
    try (FakeEngine engine = new FakeEngine(8 * 256 * BLOCKS)) {
      CopySlice slice = fill(column(engine, 8), engine, job(new int[] {3, 30}, hosts(0, 5)));
      assertThat(slice.count()).isEqualTo(2);
      assertThat(slice.rows(1)).isEqualTo(8);
      assertThat(slice.devicePitch(1)).isEqualTo(256 * BLOCKS);
      assertThat(slice.hostPitch(1)).isEqualTo(256);
    }
  }

  /** A column has 2 KiB; whatever a slice may have, none is cut that fits another. */
  @ParameterizedTest
  @ValueSource(longs = {2048, 2049, 4095, 4096, 5000, 7000, 100_000})
  void fill_slicesOfAnyLength_holdWholeColumns(long maxBytes) throws Exception {
    try (FakeEngine engine = new FakeEngine(8 * 256 * BLOCKS)) {
      Geometry geometry = new Geometry(engine.open(column(engine, 8)));
      JobState state = job(new int[] {3, 30, 1, 9, 17}, hosts(0, 5, 6, 1, 9));
      CopySlice slice = new CopySlice(64);
      while (!state.allSubmitted()) {
        slice.clear();
        geometry.fill(slice, state, STRIDED, maxBytes);
        assertThat(slice.bytes()).isBetween(2048L, maxBytes);
        for (int i = 0; i < slice.count(); i++) {
          assertThat(slice.rows(i)).isEqualTo(8);
        }
      }
    }
  }

  /** One that fits no slice is cut, and goes on in the next. */
  @Test
  void fill_columnLongerThanASlice_isCutAtRows() throws Exception {
    try (FakeEngine engine = new FakeEngine(8 * 256 * BLOCKS)) {
      Geometry geometry = new Geometry(engine.open(column(engine, 8)));
      JobState state = job(new int[] {3, 30}, hosts(0, 5));
      CopySlice slice = new CopySlice(64);
      List<Long> rows = new ArrayList<>();
      while (!state.allSubmitted()) {
        slice.clear();
        geometry.fill(slice, state, STRIDED, 1300);
        for (int i = 0; i < slice.count(); i++) {
          rows.add(slice.rows(i));
        }
      }
      assertThat(rows).containsExactly(5L, 3L, 2L, 5L, 1L);
    }
  }

  @Test
  void fill_rowsThatTheDeviceMovesWellAlone_goOneByOne() throws Exception {
    try (FakeEngine engine = new FakeEngine(8 * 256 * BLOCKS)) {
      SliceLimits narrow = new SliceLimits(64, 1 << 20, 1 << 20, 4, 1 << 20, 255);
      assertThat(fill(column(engine, 8), engine, job(new int[] {3}, hosts(0)), narrow).count())
          .isEqualTo(8);
      SliceLimits wide = new SliceLimits(64, 1 << 20, 1 << 20, 4, 1 << 20, 256);
      assertThat(fill(column(engine, 8), engine, job(new int[] {3}, hosts(0)), wide).count())
          .isEqualTo(1);
    }
  }

  /** Two layers so far apart in an allocation of a GPU that is not there: no byte is touched. */
  private static CopySlice fillRowsApart(long pitch) throws Exception {
    RankLayout layout =
        RankLayout.of(
            List.of(new AllocationHandle.CudaIpc("ab".repeat(64), 0, 2 * pitch, "GPU-0a")),
            List.of(new Region(0, 0, 256, 256, BLOCKS), new Region(0, pitch, 256, 256, BLOCKS)),
            "test");
    try (FakeEngine engine = new FakeEngine()) {
      return fill(layout, engine, job(new int[] {3}, hosts(0)));
    }
  }

  /** {@code cuMemcpy2DAsync} refuses a larger pitch, and batched 3-D copies crawl with it. */
  @Test
  void fill_rowsFurtherApartThanAStridedCopyReaches_goOneByOne() throws Exception {
    CopySlice near = fillRowsApart(Integer.MAX_VALUE);
    assertThat(near.count()).isEqualTo(1);
    assertThat(near.rows(0)).isEqualTo(2);
    CopySlice far = fillRowsApart(1L << 31);
    assertThat(far.count()).isEqualTo(2);
    assertThat(far.rows(0)).isEqualTo(1);
    assertThat(far.deviceAddress(1) - far.deviceAddress(0)).isEqualTo(1L << 31);
  }

  @Test
  void strided_rowsTooWideOrTooFarApart_areNot() {
    assertThat(STRIDED.strided(4096, Integer.MAX_VALUE)).isTrue();
    assertThat(STRIDED.strided(4096, 1L << 31)).isFalse();
    assertThat(STRIDED.strided(4097, 8192)).isFalse();
  }

  @Test
  void fill_manyStridedCopies_areSpreadOverSlices() throws Exception {
    try (FakeEngine engine = new FakeEngine(8 * 256 * 100)) {
      List<Region> regions = new ArrayList<>();
      for (int layer = 0; layer < 8; layer++) {
        regions.add(new Region(0, layer * 256L * 100, 256, 256, 100));
      }
      RankLayout layout = RankLayout.of(engine.allocations(), regions, "test");
      int[] blocks = java.util.stream.IntStream.range(0, 100).toArray();
      JobState state = job(blocks, hosts(blocks));
      Geometry geometry = new Geometry(engine.open(layout));
      CopySlice slice = new CopySlice(512);
      geometry.fill(slice, state, STRIDED, STRIDED.bytes());
      assertThat(slice.count()).isEqualTo(64);
      slice.clear();
      geometry.fill(slice, state, STRIDED, STRIDED.bytes());
      assertThat(slice.count()).isEqualTo(36);
      assertThat(state.allSubmitted()).isTrue();
    }
  }

  @Test
  void bytesOfNext_growsWithWhatIsOnItsWay() {
    SliceLimits limits = new SliceLimits(512, 16, 1, 9, 96, 0);
    assertThat(limits.bytesOfNext(0)).isEqualTo(1);
    assertThat(limits.bytesOfNext(5)).isEqualTo(5);
    assertThat(limits.bytesOfNext(90)).isEqualTo(16);
  }

  @Test
  void mover_randomLayoutsAndOrders_bytesComeThrough() throws Exception {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    long stridedBytes = 0;
    for (int round = 0; round < 150; round++) {
      Drawn drawn = new Drawn(random);
      try (FakeEngine engine = new FakeEngine(drawn.allocations)) {
        FakeDevice device = engine.open(drawn.layout(engine));
        int bytes = 600 + random.nextInt(60_000);
        device.limits =
            new SliceLimits(
                1 + random.nextInt(64),
                bytes,
                bytes / 20 + random.nextInt(bytes - bytes / 20),
                1 + random.nextInt(4),
                bytes,
                random.nextInt(3000));
        roundTrip(engine, device, drawn, "seed %d, round %d".formatted(seed, round));
        stridedBytes += device.strided.get();
      }
    }
    assertThat(stridedBytes).as("strided copies were among them").isPositive();
  }

  @Test
  void mover_randomLayoutsOfAnotherProcess_bytesComeThrough() throws Exception {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    for (int round = 0; round < 5; round++) {
      Drawn drawn = new Drawn(random);
      try (ProcessEngine engine = new ProcessEngine(drawn.allocations);
          DeviceMemory device = engine.open(drawn.layout(engine))) {
        roundTrip(engine, device, drawn, "seed %d, round %d".formatted(seed, round));
      }
    }
  }

  /** Saves a random order of blocks to random places, and loads them into another order. */
  private static void roundTrip(EngineMemory engine, DeviceMemory device, Drawn drawn, String as)
      throws Exception {
    for (int i = 0; i < drawn.allocations.length; i++) {
      byte[] content = new byte[(int) drawn.allocations[i]];
      drawn.random.nextBytes(content);
      engine.poke(i, 0, content);
    }
    RankLayout layout = device.layout();
    long slot = layout.partBytes() + drawn.random.nextInt(100);
    try (Arena arena = Arena.ofShared()) {
      MemorySegment host = arena.allocate(slot * BLOCKS, 8);
      int[] blocks = drawn.order();
      long[] places = drawn.places(blocks, host.address(), slot);
      byte[][] images = new byte[BLOCKS][];
      for (int block = 0; block < BLOCKS; block++) {
        images[block] = image(engine, layout, block);
      }
      Semaphore posted = new Semaphore(0);
      CompletionQueue completions = new CompletionQueue(4, posted::release);
      Mover mover = Mover.start("test", device, FenceRing.none(), completions, new MoveLimits());
      move(mover, completions, posted, Direction.SAVE, blocks, places);
      for (int i = 0; i < BLOCKS; i++) {
        byte[] seen =
            host.asSlice(places[i] - host.address(), layout.partBytes())
                .toArray(ValueLayout.JAVA_BYTE);
        assertThat(Arrays.mismatch(seen, images[blocks[i]])).as(as + ", saved").isEqualTo(-1);
      }
      int[] other = drawn.order();
      move(mover, completions, posted, Direction.LOAD, other, places);
      for (int i = 0; i < BLOCKS; i++) {
        assertThat(Arrays.mismatch(image(engine, layout, other[i]), images[blocks[i]]))
            .as(as + ", loaded")
            .isEqualTo(-1);
      }
      assertThat(mover.stop(5_000_000_000L)).isTrue();
    }
  }

  private static void move(
      Mover mover,
      CompletionQueue completions,
      Semaphore posted,
      Direction direction,
      int[] blocks,
      long[] places)
      throws InterruptedException {
    long deadline = System.nanoTime() + 30_000_000_000L;
    assertThat(
            mover.submit(
                new TransferJob(
                    1, 0, direction, blocks, places, null, RevokeWord.NONE, deadline, null)))
        .isTrue();
    assertThat(posted.tryAcquire(30, TimeUnit.SECONDS)).isTrue();
    Completion done = Objects.requireNonNull(completions.poll());
    assertThat(done.status()).as(String.valueOf(done.cause())).isEqualTo(Completion.Status.OK);
    assertThat(done.blocksOk().cardinality()).isEqualTo(blocks.length);
  }

  private static byte[] image(EngineMemory engine, RankLayout layout, int block) throws Exception {
    byte[] image = new byte[(int) layout.partBytes()];
    int at = 0;
    for (Region region : layout.regions()) {
      int length = (int) region.bytesPerBlock();
      long offset = region.offset() + block * region.blockStride();
      System.arraycopy(engine.peek(region.allocation(), offset, length), 0, image, at, length);
      at += length;
    }
    return image;
  }

  /** A layout of one to three allocations, each a column of layers or one layer alone. */
  private static final class Drawn {
    final Random random;
    final long[] allocations;
    private final List<Region> regions = new ArrayList<>();

    Drawn(Random random) {
      this.random = random;
      int common = 1 + random.nextInt(700);
      allocations = new long[1 + random.nextInt(3)];
      for (int i = 0; i < allocations.length; i++) {
        int layers = random.nextBoolean() ? 1 : 2 + random.nextInt(9);
        int width = random.nextInt(4) == 0 ? 1 + random.nextInt(4000) : common;
        boolean interleaved = random.nextInt(4) == 0;
        long blockStride = interleaved ? (long) width * layers : width + random.nextInt(50);
        long layerStride = interleaved ? width : blockStride * BLOCKS + random.nextInt(50);
        long offset = random.nextInt(100);
        for (int layer = 0; layer < layers; layer++) {
          regions.add(new Region(i, offset + layer * layerStride, blockStride, width, BLOCKS));
        }
        allocations[i] =
            offset + layers * Math.max(layerStride, blockStride) * (interleaved ? BLOCKS : 1);
      }
    }

    RankLayout layout(EngineMemory engine) throws Exception {
      return RankLayout.of(engine.allocations(), regions, "test");
    }

    /** All blocks, in pieces of random length that go up or down. */
    int[] order() {
      List<int[]> pieces = new ArrayList<>();
      for (int from = 0; from < BLOCKS; ) {
        int length = Math.min(BLOCKS - from, 1 + random.nextInt(9));
        int[] piece = new int[length];
        boolean down = random.nextBoolean();
        for (int i = 0; i < length; i++) {
          piece[i] = from + (down ? length - 1 - i : i);
        }
        pieces.add(piece);
        from += length;
      }
      java.util.Collections.shuffle(pieces, random);
      return pieces.stream().flatMapToInt(Arrays::stream).toArray();
    }

    /** A place for each block of the order: mostly as the order goes, some swapped. */
    long[] places(int[] blocks, long base, long slot) {
      int[] slots = new int[BLOCKS];
      boolean byBlock = random.nextBoolean();
      for (int i = 0; i < BLOCKS; i++) {
        slots[i] = byBlock ? blocks[i] : i;
      }
      for (int n = random.nextInt(6); n > 0; n--) {
        int a = random.nextInt(BLOCKS);
        int b = random.nextInt(BLOCKS);
        int keep = slots[a];
        slots[a] = slots[b];
        slots[b] = keep;
      }
      return Arrays.stream(slots).mapToLong(s -> base + s * slot).toArray();
    }
  }
}
