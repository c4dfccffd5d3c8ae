package io.flexkv.transfer;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.CudaCopyPath;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Devices;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import org.jspecify.annotations.Nullable;

/**
 * Whether the CUDA backend works on this machine: a Python child owns GPU memory and an event, this
 * process maps them by IPC and moves blocks through the mover. Every copy path that the driver has,
 * both directions, plain and strided copies, pinned and pageable host memory, byte for byte; the
 * event polled. Prints the records as JSON.
 *
 * <p>Usage: {@code java -cp flexkv-sidecar.jar io.flexkv.transfer.CudaSelfTest [records.json [GPU
 * bytes [bytes checked]]]}; takes some ten seconds; {@code CudaCopyBench} says how fast it is.
 */
public final class CudaSelfTest {
  private static final int SMALL = 32 << 10;
  private static final int SHIFT = 4096;
  private static final int ROW = 4 << 10;

  /** Not a divisor of a slice, so columns of it are cut. */
  private static final int ODD_ROW = 3 << 10;

  /** Shorter than what the driver leaves to the copy engines whatever else there is. */
  private static final int SHORT = 12 << 10;

  /** The processor writes no row of these, so their beginning goes by itself as well. */
  private static final int WIDE_ROW = 32 << 10;

  private static final int WIDE_LAYERS = 4;

  private static final int LAYERS = 8;
  private static final int RUN = 8;
  private static final long PIECE = 32L << 20;

  private final BenchRecords records;
  private final BenchChild child;
  private final AllocationHandle handle;
  private final byte[] eventHandle;
  private final MemorySegment exchange;
  private final MemorySegment pageable;
  private final AtomicBoolean pagesAreThere = new AtomicBoolean();

  /** What happens while the pinning thread asks whether pages are there, once. */
  private volatile @Nullable Runnable whenAsked;

  private CudaSelfTest(
      BenchRecords records,
      BenchChild child,
      long gpuBytes,
      MemorySegment exchange,
      MemorySegment pageable)
      throws IOException {
    this.records = records;
    this.child = child;
    this.exchange = exchange;
    this.pageable = pageable;
    String[] words = child.answer().split(" ", -1);
    this.handle = new AllocationHandle.CudaIpc(words[1], 0, gpuBytes, words[0]);
    this.eventHandle = HexFormat.of().parseHex(words[2]);
  }

  public static void main(String[] args) throws Exception {
    long gpuBytes = args.length > 1 ? Long.parseLong(args[1]) : 4L << 30;
    long checked = args.length > 2 ? Long.parseLong(args[2]) : 256L << 20;
    BenchRecords records =
        new BenchRecords("io.flexkv.transfer.CudaSelfTest", BenchRecords.machine());
    Path file = Files.createTempFile("flexkv-selftest", ".bin");
    try (Arena arena = Arena.ofShared();
        RandomAccessFile opened = new RandomAccessFile(file.toFile(), "rw")) {
      opened.setLength(checked);
      MemorySegment exchange =
          opened.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, checked, arena);
      try (BenchChild child =
          new BenchChild(
              "cuda_exporter.py",
              Long.toString(gpuBytes),
              file.toString(),
              Long.toString(checked))) {
        new CudaSelfTest(records, child, gpuBytes, exchange, arena.allocate(checked, 4096)).run();
      }
    } finally {
      Files.delete(file);
    }
    if (args.length > 0) {
      records.write(Path.of(args[0]));
    }
    System.out.println(records.json());
    if (!records.checksHold()) {
      throw new IllegalStateException("a check does not hold, see above");
    }
  }

  private void run() throws Exception {
    // BATCH is one of the two that have it in their names.
    for (CudaCopyPath path : EnumSet.complementOf(EnumSet.of(CudaCopyPath.BATCH))) {
      // One process pins a piece of memory once, so each path gets a pool of its own.
      MemorySegment pool = BenchPool.map(exchange.byteSize());
      try (Devices devices = new Devices(List.of(pool), path)) {
        devices.pinAfter(this::pagesAreThere, 1);
        pagesAreThere.set(false);
        checkPath(devices, pool, path);
      } catch (DeviceException e) {
        if (path == CudaCopyPath.AUTO || e.kind() != DeviceException.Kind.UNSUPPORTED) {
          throw e;
        }
        records.add(path + ": not offered by this driver", 0, "offered");
      }
    }
  }

  private void checkPath(Devices devices, MemorySegment pool, CudaCopyPath path) throws Exception {
    long begin = System.nanoTime();
    try (DeviceMemory memory = devices.open(layout(SMALL))) {
      records.add(path + ": opened in", (System.nanoTime() - begin) / 1e6, "ms");
      records.check(path + ": pageable memory, both ways, byte-exact", exact(memory, pageable));
      checkFence(memory, path);
      records.check(
          path + ": no more than a piece is pinned while pages come",
          devices.pinnedBytes() <= Math.min(pool.byteSize(), PIECE));
      records.check(path + ": pool with a piece pinned, byte-exact", exact(memory, pool));
      pagesAreThere.set(true);
      records.check(path + ": pool while it is pinned, byte-exact", exact(memory, pool));
      awaitPins(devices, pool, path);
      records.check(path + ": pinned pool, both ways, byte-exact", exact(memory, pool));
      records.check(path + ": pool resized, both ways, byte-exact", resized(devices, memory, pool));
      records.check(path + ": pool cut while a piece waits, pinned anew", cut(devices, pool));
    }
    try (DeviceMemory memory = devices.open(layout(SHORT))) {
      records.check(path + ": short rows one by one, byte-exact", exact(memory, pool));
    }
    try (DeviceMemory memory = devices.open(column(ROW, LAYERS))) {
      records.check(path + ": rows in strided copies, both ways, byte-exact", exact(memory, pool));
      records.check(path + ": rows, pageable memory, byte-exact", exact(memory, pageable));
      checkProof(memory, path);
    }
    try (DeviceMemory memory = devices.open(column(ODD_ROW, LAYERS))) {
      records.check(path + ": strided copies of several heights, byte-exact", exact(memory, pool));
    }
    try (DeviceMemory memory = devices.open(column(WIDE_ROW, WIDE_LAYERS))) {
      records.check(path + ": wide rows in strided copies, byte-exact", exact(memory, pool));
    }
  }

  /** Smaller, a little larger, and as it was: at odd places, so that pieces have odd borders. */
  private boolean resized(Devices devices, DeviceMemory memory, MemorySegment pool)
      throws Exception {
    boolean exact = true;
    for (long part : new long[] {pool.byteSize() / 8, pool.byteSize() / 3, pool.byteSize()}) {
      long bytes = part / 4096 * 4096;
      long[] pinned = devices.resized(List.of(pool.asSlice(0, bytes)));
      exact &= pinned[0] < bytes + PIECE;
      exact &= exact(memory, pool.asSlice(0, bytes));
      for (int i = 0; devices.pinnedBytes() < bytes && i < 10_000; i++) {
        Thread.sleep(1);
      }
      exact &= devices.pinnedBytes() >= bytes && exact(memory, pool.asSlice(0, bytes));
    }
    return exact;
  }

  /**
   * Smaller between the look at a piece and its pinning; pinning goes on when it has grown again.
   */
  private boolean cut(Devices devices, MemorySegment pool) throws Exception {
    if (pool.byteSize() <= PIECE) {
      return true;
    }
    devices.resized(List.of(pool.asSlice(0, PIECE)));
    CountDownLatch cut = new CountDownLatch(1);
    whenAsked =
        () ->
            Thread.ofPlatform()
                .start(() -> {
                  resize(devices, pool.asSlice(0, PIECE / 2));
                  cut.countDown();
                });
    devices.resized(List.of(pool));
    boolean done = cut.await(10, TimeUnit.SECONDS);
    devices.resized(List.of(pool));
    for (int i = 0; devices.pinnedBytes() < pool.byteSize() && i < 10_000; i++) {
      Thread.sleep(1);
    }
    return done && devices.pinnedBytes() >= pool.byteSize();
  }

  private static void resize(Devices devices, MemorySegment pool) {
    try {
      devices.resized(List.of(pool));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** Asked by the thread that pins, before each piece but the first. */
  private boolean pagesAreThere() {
    Runnable first = whenAsked;
    if (first == null) {
      return pagesAreThere.get();
    }
    whenAsked = null;
    first.run();
    LockSupport.parkNanos(50_000_000); // until the pool has its new length
    return true;
  }

  private RankLayout layout(int blockBytes) throws DeviceException {
    int blocks = Math.toIntExact(handle.length() / blockBytes);
    return RankLayout.of(
        List.of(handle), List.of(new Region(0, 0, blockBytes, blockBytes, blocks)), "selftest");
  }

  private static int[] shuffled(int count, long seed) {
    List<Integer> order = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      order.add(i);
    }
    Collections.shuffle(order, new Random(seed));
    return order.stream().mapToInt(Integer::intValue).toArray();
  }

  /** Layers of small rows at one stride in one allocation, within the part that is compared. */
  private RankLayout column(int row, int layers) throws DeviceException {
    long stride = exchange.byteSize() / layers / row * row;
    List<Region> regions = new ArrayList<>();
    for (int layer = 0; layer < layers; layer++) {
      regions.add(new Region(0, layer * stride, row, row, Math.toIntExact(stride / row)));
    }
    return RankLayout.of(List.of(handle), regions, "selftest");
  }

  /** Runs of eight blocks, the runs in random order, every other one backwards. */
  private static int[] runs(int count, long seed) {
    int[] order = shuffled(count / RUN, seed);
    int[] blocks = new int[order.length * RUN];
    for (int i = 0; i < blocks.length; i++) {
      int within = i / RUN % 2 == 0 ? i % RUN : RUN - 1 - i % RUN;
      blocks[i] = order[i / RUN] * RUN + within;
    }
    return blocks;
  }

  /** Out in one order, compared; back changed and in another order, compared by the owner. */
  private boolean exact(DeviceMemory memory, MemorySegment whole) throws Exception {
    MemorySegment host = whole.asSlice(SHIFT); // so that copies cross the borders of pinned pieces
    RankLayout layout = memory.layout();
    long part = layout.partBytes();
    int count = (int) (Math.min(exchange.byteSize(), host.byteSize()) / part);
    count = Math.min(count, (int) ((exchange.byteSize() - SMALL) / part));
    child.run("fill");
    boolean equal = true;
    try (MoverDriver mover = new MoverDriver(memory)) {
      for (boolean inRuns : new boolean[] {false, true}) {
        int[] blocks = inRuns ? runs(count, 5) : shuffled(count, 3);
        int[] other = inRuns ? runs(count, 6) : shuffled(count, 4);
        long[] hosts = new long[blocks.length];
        for (int i = 0; i < hosts.length; i++) {
          int slot = inRuns ? i / RUN * RUN + Math.floorMod(blocks[i], RUN) : i;
          hosts[i] = host.address() + slot * part;
        }
        child.run("dump");
        host.fill((byte) 0);
        mover.copy(Direction.SAVE, blocks, hosts, 64);
        equal &= same(layout, host, hosts, blocks);
        for (long at = 0; at + 8 <= blocks.length * part; at += 8) {
          host.set(ValueLayout.JAVA_LONG, at, ~host.get(ValueLayout.JAVA_LONG, at));
        }
        mover.copy(Direction.LOAD, other, hosts, 64);
        child.run("dump");
        equal &= same(layout, host, hosts, other);
      }
    }
    return equal;
  }

  private boolean same(RankLayout layout, MemorySegment host, long[] hosts, int[] blocks) {
    boolean equal = true;
    for (int i = 0; i < blocks.length; i++) {
      long at = hosts[i] - host.address();
      for (Region region : layout.regions()) {
        long there = region.offset() + blocks[i] * region.blockStride();
        long length = region.bytesPerBlock();
        equal &=
            MemorySegment.mismatch(host, at, at + length, exchange, there, there + length) == -1;
        at += length;
      }
    }
    return equal;
  }

  /** A proof of rows at one stride: written, looked at by the owner, read. */
  private void checkProof(DeviceMemory memory, CudaCopyPath path) throws Exception {
    RankLayout layout = memory.layout();
    int[] blocks = {0, 1, layout.blocks() - 1};
    try (Arena arena = Arena.ofShared()) {
      LayoutProof proof =
          new LayoutProof(memory, arena.allocate(layout.partBytes(), 4096), 10_000_000_000L);
      proof.write(9, blocks);
      child.run("dump");
      String written = "";
      for (int block : blocks) {
        written += ProofImage.difference(image(layout, block, arena), layout, 9, block);
      }
      String read = proof.read(9, blocks);
      records.check(path + ": layout proof by strided copies, written", written.isEmpty());
      records.check(path + ": layout proof by strided copies, read", read.isEmpty());
    }
  }

  /** A block as its owner sees it. */
  private MemorySegment image(RankLayout layout, int block, Arena arena) {
    MemorySegment image = arena.allocate(layout.partBytes());
    long at = 0;
    for (Region region : layout.regions()) {
      long there = region.offset() + block * region.blockStride();
      MemorySegment.copy(exchange, there, image, at, region.bytesPerBlock());
      at += region.bytesPerBlock();
    }
    return image;
  }

  private void checkFence(DeviceMemory memory, CudaCopyPath path) throws Exception {
    AtomicLong seen = new AtomicLong();
    try (FenceRing fences =
        memory.openFences(List.of(eventHandle), (index, sequence) -> seen.set(sequence))) {
      child.run("busy");
      long begin = System.nanoTime();
      long polls = 0;
      while (!fences.reached(0, 5)) {
        polls++;
        if (System.nanoTime() - begin > 30_000_000_000L) {
          throw new DeviceException(
              DeviceException.Kind.COPY, "the event did not complete in 30 s");
        }
      }
      double nanos = System.nanoTime() - begin;
      records.check(
          path + ": fence pending first, then reached, and told", polls > 0 && seen.get() == 5);
      records.add(path + ": fence, one poll", nanos / Math.max(1, polls) / 1000, "us");
    }
  }

  private void awaitPins(Devices devices, MemorySegment pool, CudaCopyPath path)
      throws InterruptedException {
    long begin = System.nanoTime();
    while (devices.pinnedBytes() < pool.byteSize() && System.nanoTime() - begin < 30_000_000_000L) {
      Thread.sleep(5);
    }
    records.check(path + ": pool pinned", devices.pinnedBytes() == pool.byteSize());
  }
}
