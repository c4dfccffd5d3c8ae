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
import io.flexkv.ffm.Linux;
import io.flexkv.ffm.SharedMemory;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Whether the CUDA backend works on this machine, and how fast: a Python child owns GPU memory and
 * an event, this process maps them by IPC and moves blocks through the mover. Every copy path that
 * the driver has, both directions, pinned and pageable host memory, byte for byte; the event
 * polled; GB/s of 32 KiB and 2 MiB fragments beside copies of 32 MiB. Prints the records as JSON.
 *
 * <p>Usage: {@code java -cp flexkv-sidecar.jar io.flexkv.transfer.CudaSelfTest [records.json [GPU
 * bytes [bytes checked]]]}; takes about half a minute with the default of 4 GiB.
 */
public final class CudaSelfTest {
  private static final int SMALL = 32 << 10;
  private static final int LARGE = 2 << 20;
  private static final int HUGE = 32 << 20;
  private static final int SHIFT = 4096;
  private static final int ROUNDS = 7;

  private final BenchRecords records;
  private final BenchChild child;
  private final AllocationHandle handle;
  private final byte[] eventHandle;
  private final MemorySegment exchange;
  private final long poolBytes;
  private final MemorySegment pageable;

  private CudaSelfTest(
      BenchRecords records,
      BenchChild child,
      long gpuBytes,
      MemorySegment exchange,
      long poolBytes,
      MemorySegment pageable)
      throws IOException {
    this.records = records;
    this.child = child;
    this.exchange = exchange;
    this.poolBytes = poolBytes;
    this.pageable = pageable;
    String[] words = child.answer().split(" ", -1);
    this.handle = new AllocationHandle.CudaIpc(words[1], 0, gpuBytes, words[0]);
    this.eventHandle = HexFormat.of().parseHex(words[2]);
  }

  public static void main(String[] args) throws Exception {
    long gpuBytes = args.length > 1 ? Long.parseLong(args[1]) : 4L << 30;
    long checked = args.length > 2 ? Long.parseLong(args[2]) : 256L << 20;
    long poolBytes = Math.min(gpuBytes, 2L << 30);
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
        new CudaSelfTest(
                records, child, gpuBytes, exchange, poolBytes, arena.allocate(checked, 4096))
            .run();
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

  /** Pinned memory must stay mapped, therefore until the process ends. */
  private static MemorySegment pool(long bytes) throws IOException {
    int fd = SharedMemory.createMemfd("flexkv-selftest", bytes);
    try {
      MemorySegment pool = SharedMemory.mapShared(fd, bytes, Arena.global());
      SharedMemory.populate(pool.address(), bytes);
      return pool;
    } finally {
      Linux.close(fd);
    }
  }

  private void run() throws Exception {
    for (CudaCopyPath path : CudaCopyPath.values()) {
      // One process pins a piece of memory once, so each path gets a pool of its own.
      boolean automatic = path == CudaCopyPath.AUTO;
      MemorySegment pool = pool(automatic ? poolBytes : exchange.byteSize());
      try (Devices devices = new Devices(List.of(pool), path)) {
        checkPath(devices, pool, path);
        if (automatic) {
          measure(devices, pool);
        }
      } catch (DeviceException e) {
        if (automatic || e.kind() != DeviceException.Kind.UNSUPPORTED) {
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
      records.check(path + ": pool while it is pinned, byte-exact", exact(memory, pool));
      awaitPins(devices, pool, path);
      records.check(path + ": pinned pool, both ways, byte-exact", exact(memory, pool));
    }
  }

  private void measure(Devices devices, MemorySegment pool) throws DeviceException {
    for (Direction direction : Direction.values()) {
      double ceiling = rate(devices, pool, HUGE, direction);
      for (int fragment : new int[] {SMALL, LARGE}) {
        records.add(
            "%s of %d KiB fragments, against 32 MiB".formatted(direction, fragment >> 10),
            rate(devices, pool, fragment, direction),
            "GB/s",
            ceiling,
            0.9);
      }
    }
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

  /** Out in random order, compared; back changed and in another order, compared by the owner. */
  private boolean exact(DeviceMemory memory, MemorySegment whole) throws Exception {
    int count = Math.toIntExact(Math.min(exchange.byteSize(), whole.byteSize()) / SMALL) - 1;
    MemorySegment host = whole.asSlice(SHIFT); // so that copies cross the borders of pinned pieces
    child.run("fill");
    try (MoverDriver mover = new MoverDriver(memory)) {
      int[] blocks = shuffled(count, 3);
      long[] hosts = new long[count];
      for (int i = 0; i < count; i++) {
        hosts[i] = host.address() + (long) i * SMALL;
      }
      host.asSlice(0, (long) count * SMALL).fill((byte) 0);
      mover.copy(Direction.SAVE, blocks, hosts, 64);
      boolean equal = true;
      for (int i = 0; i < count; i++) {
        equal &= same(host, i, exchange, blocks[i]);
      }
      for (long at = 0; at < (long) count * SMALL; at += 8) {
        host.set(ValueLayout.JAVA_LONG, at, ~host.get(ValueLayout.JAVA_LONG, at));
      }
      int[] other = shuffled(count, 4);
      mover.copy(Direction.LOAD, other, hosts, 64);
      child.run("dump");
      for (int i = 0; i < count; i++) {
        equal &= same(host, i, exchange, other[i]);
      }
      return equal;
    }
  }

  private static boolean same(MemorySegment a, int blockOfA, MemorySegment b, int blockOfB) {
    long atA = (long) blockOfA * SMALL;
    long atB = (long) blockOfB * SMALL;
    return MemorySegment.mismatch(a, atA, atA + SMALL, b, atB, atB + SMALL) == -1;
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

  private double rate(Devices devices, MemorySegment pool, int fragment, Direction direction)
      throws DeviceException {
    try (DeviceMemory memory = devices.open(layout(fragment));
        MoverDriver mover = new MoverDriver(memory)) {
      int gpuBlocks = memory.layout().blocks();
      int count = Math.toIntExact(Math.min(1L << 30, pool.byteSize()) / fragment);
      int blocksPerJob = Math.max(count / 1000 + 1, (2 << 20) / fragment);
      double[] rates = new double[ROUNDS];
      for (int round = -1; round < ROUNDS; round++) {
        int[] blocks = Arrays.copyOf(shuffled(gpuBlocks, 10 + round), Math.min(count, gpuBlocks));
        long[] hosts = new long[blocks.length];
        for (int i = 0; i < hosts.length; i++) {
          hosts[i] = pool.address() + (long) i * fragment;
        }
        long nanos = mover.copy(direction, blocks, hosts, blocksPerJob);
        if (round >= 0) {
          rates[round] = (double) blocks.length * fragment / nanos;
        }
      }
      Arrays.sort(rates);
      return rates[ROUNDS / 2];
    }
  }
}
