package io.flexkv.transfer;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.CudaCopyPath;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Devices;
import io.flexkv.device.Direction;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import io.flexkv.ffm.PidFd;
import io.flexkv.ffm.ProcessVm;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/**
 * How much of the bare {@code process_vm_readv} rate comes through the mover: the same fragments,
 * in the same order, between the same two memories, in turns.
 *
 * <p>Usage: {@code java -cp flexkv-sidecar.jar io.flexkv.transfer.ProcessCopyBench [records.json]}
 */
public final class ProcessCopyBench {
  private static final int LAYERS = 16;
  private static final long ROUND_BYTES = 48L << 20;
  private static final int ROUNDS = 40;
  private static final int JOBS_PER_ROUND = 4;

  private final RankLayout layout;
  private final DeviceMemory memory;
  private final MoverDriver mover;
  private final ProcessVm vm = new ProcessVm();
  private final int pid;
  private final int[] blocks;
  private final long[] hosts;

  private ProcessCopyBench(
      RankLayout layout, DeviceMemory memory, MoverDriver mover, MemorySegment pool, int pid) {
    this.layout = layout;
    this.memory = memory;
    this.mover = mover;
    this.pid = pid;
    int count = layout.blocks();
    blocks = new int[count];
    hosts = new long[count];
    List<Integer> order = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      order.add(i);
    }
    java.util.Collections.shuffle(order, new Random(1));
    for (int i = 0; i < count; i++) {
      blocks[i] = order.get(i);
      hosts[i] = pool.address() + i * layout.partBytes();
    }
  }

  public static void main(String[] args) throws Exception {
    BenchRecords records = new BenchRecords("make bench", BenchRecords.machine());
    for (int fragmentKib : new int[] {16, 32, 64}) {
      measure(fragmentKib << 10, records);
    }
    if (args.length > 0) {
      records.write(Path.of(args[0]));
    } else {
      System.out.println(records.json());
    }
  }

  private static void measure(int fragment, BenchRecords records) throws Exception {
    int count = Math.toIntExact(ROUND_BYTES / LAYERS / fragment);
    long bytes = (long) LAYERS * count * fragment;
    try (BenchChild child = new BenchChild("memory_owner.py", Long.toString(bytes))) {
      long address = Long.parseLong(child.answer());
      AllocationHandle handle =
          new AllocationHandle.ProcessMemory(
              child.pid(), PidFd.startTimeTicks(child.pid()), address, bytes);
      List<Region> regions = new ArrayList<>();
      for (int layer = 0; layer < LAYERS; layer++) {
        regions.add(new Region(0, (long) layer * count * fragment, fragment, fragment, count));
      }
      MemorySegment pool = BenchPool.map(bytes);
      RankLayout layout = RankLayout.of(List.of(handle), regions, "bench");
      try (Devices devices = new Devices(List.of(pool), CudaCopyPath.AUTO);
          DeviceMemory memory = devices.open(layout);
          MoverDriver mover = new MoverDriver(memory)) {
        new ProcessCopyBench(layout, memory, mover, pool, child.pid()).run(fragment, records);
      }
    }
  }

  private void run(int fragment, BenchRecords records) throws IOException, DeviceException {
    for (Direction direction : Direction.values()) {
      double[] bare = new double[ROUNDS];
      double[] ours = new double[ROUNDS];
      for (int round = -2; round < ROUNDS; round++) {
        double bareRate = rate(bare(direction));
        double ourRate = rate(mover.copy(direction, blocks, hosts, blocks.length / JOBS_PER_ROUND));
        if (round >= 0) {
          bare[round] = bareRate;
          ours[round] = ourRate;
        }
      }
      String call = direction == Direction.LOAD ? "process_vm_writev" : "process_vm_readv";
      records.add(
          "process backend %s, %d KiB fragments, against bare %s"
              .formatted(direction, fragment >> 10, call),
          best(ours),
          "GB/s",
          best(bare),
          0.9);
    }
  }

  private double rate(long nanos) {
    return (double) blocks.length * layout.partBytes() / nanos;
  }

  private static double best(double[] values) {
    return Arrays.stream(values).max().orElseThrow();
  }

  private long bare(Direction direction) throws IOException {
    long begin = System.nanoTime();
    vm.clear();
    for (int i = 0; i < blocks.length; i++) {
      long host = hosts[i];
      for (int layer = 0; layer < LAYERS; layer++) {
        Region region = layout.regions().get(layer);
        long remote = memory.regionAddress(layer) + blocks[i] * region.blockStride();
        vm.add(host, remote, region.bytesPerBlock());
        host += region.bytesPerBlock();
        if (vm.count() == ProcessVm.MAX_FRAGMENTS) {
          call(direction);
        }
      }
    }
    if (vm.count() > 0) {
      call(direction);
    }
    return System.nanoTime() - begin;
  }

  private void call(Direction direction) throws IOException {
    long copied = direction == Direction.LOAD ? vm.write(pid) : vm.read(pid);
    if (copied <= 0) {
      throw new IOException("bare copy of " + vm.count() + " fragments copied " + copied);
    }
    vm.clear();
  }
}
