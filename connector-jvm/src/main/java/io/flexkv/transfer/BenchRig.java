package io.flexkv.transfer;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.DeviceException;
import io.flexkv.device.Devices;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;

/**
 * What the parts of {@link CudaCopyBench} share: what the run was told, the GPU memory of another
 * process, the pool, and how blocks lie in both.
 *
 * @param handles one allocation for all layers, then one for each layer
 * @param pool host bytes that copies use: a pass each way
 * @param cold pinned beside copies, else of no use
 */
record BenchRig(
    Plan plan,
    BenchRecords records,
    List<AllocationHandle> handles,
    BareCopies bare,
    Devices devices,
    MemorySegment pool,
    MemorySegment cold) {
  /** What a run is told. */
  record Plan(
      String bare,
      int rounds,
      long gpuBytes,
      long passBytes,
      long coldBytes,
      int smallest,
      int largest,
      int layers) {
    static Plan of(String[] args) {
      return new Plan(
          args[0],
          (int) number(args, 2, 31),
          number(args, 3, 8L << 30),
          number(args, 4, 1L << 30),
          number(args, 5, 16L << 30),
          (int) number(args, 6, 4) << 10,
          (int) number(args, 7, 2048) << 10,
          (int) number(args, 8, BareCopies.USUAL_LAYERS));
    }

    private static long number(String[] args, int index, long otherwise) {
      return args.length > index ? Long.parseLong(args[index]) : otherwise;
    }

    long layerBytes() {
      return gpuBytes / layers;
    }

    /** Host bytes that copies use: a pass each way. */
    long hostBytes() {
      return 2 * passBytes;
    }
  }

  RankLayout layout(BareCopies.Rows rows) throws DeviceException {
    long stride = plan.layerBytes() / rows.width() * rows.width();
    int blocks = Math.toIntExact(stride / rows.width());
    List<Region> regions = new ArrayList<>();
    for (int layer = 0; layer < plan.layers(); layer++) {
      regions.add(
          rows.single()
              ? new Region(0, layer * stride, rows.width(), rows.width(), blocks)
              : new Region(layer, 0, rows.width(), rows.width(), blocks));
    }
    List<AllocationHandle> used =
        rows.single() ? handles.subList(0, 1) : handles.subList(1, plan.layers() + 1);
    return RankLayout.of(used, regions, "bench");
  }

  /** Scattered runs, in slots one after another. */
  MoverDriver.Blocks blocks(BareCopies.Rows rows, long bytes, int seed, long hostOffset) {
    long part = (long) plan.layers() * rows.width();
    int groups = Math.toIntExact(plan.layerBytes() / rows.width() / rows.run());
    int wanted = (int) Math.min(groups, bytes / (part * rows.run()));
    List<Integer> order = new ArrayList<>();
    for (int i = 0; i < groups; i++) {
      order.add(i);
    }
    Collections.shuffle(order, new Random(seed));
    int[] blocks = new int[wanted * rows.run()];
    long[] hosts = new long[blocks.length];
    for (int i = 0; i < blocks.length; i++) {
      blocks[i] = order.get(i / rows.run()) * rows.run() + i % rows.run();
      hosts[i] = pool.address() + hostOffset + i * part;
    }
    return new MoverDriver.Blocks(blocks, hosts);
  }

  static double median(double[] values) {
    double[] sorted = values.clone();
    Arrays.sort(sorted);
    return sorted[sorted.length / 2];
  }
}
