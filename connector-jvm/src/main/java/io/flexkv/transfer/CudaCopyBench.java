package io.flexkv.transfer;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.CopyStream;
import io.flexkv.device.CudaCopyPath;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Devices;
import io.flexkv.device.Direction;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.jspecify.annotations.Nullable;

/**
 * How much of the link comes through the mover, for rows of every size: beside large copies (the
 * link) and beside a bare loop of whichever call of the driver moves such rows best, in turns of
 * {@value #TURN} passes. Then what a hit pays beyond the link's time, what a load loses to a save
 * beside it, and how long a copy waits while the pool is being pinned. Prints the records as JSON.
 *
 * <p>Usage: {@code java -cp flexkv-sidecar.jar io.flexkv.transfer.CudaCopyBench BARE_COPY
 * [records.json [rounds [GPU bytes [bytes a pass [bytes of cold pool [smallest KiB [largest KiB
 * [layers]]]]]]]]}, where BARE_COPY is {@code tests/gpu/bare_copy.cpp}, compiled.
 */
public final class CudaCopyBench {
  private static final int RUN = 8;

  private static final int TRIALS = 3;

  /**
   * Passes in a row of one side. Strided copies are fast where the copy engine knows the addresses,
   * and it knows those of some 8 GiB: two processes that copy alternately, over as much each, take
   * them from each other, which an engine and its sidecar do not. So each side has its turn, and
   * begins it with what makes strided copies fast on that side: ours with a registration and some
   * loads, the bare one with plain copies.
   */
  private static final int TURN = 8;

  /** The first is for the count of strided copies from which on it is worth while. */
  private static final int WARM_UP = 2;

  /** What a request of 1,024 tokens of an 8B model has. */
  private static final long JOB_BYTES = 128L << 20;

  /** From here on neighbours gain nothing, and every other width will do. */
  private static final int LARGE_WIDTH = 128 << 10;

  private static final int USUAL_WIDTH = 64 << 10;
  private static final double MOVER_BAR = 0.96;

  /** What a run is told. */
  private record Plan(
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

  private final Plan plan;
  private final BenchRecords records;
  private final List<AllocationHandle> handles;
  private final BareCopies bare;
  private final Devices devices;
  private final MemorySegment pool;
  private final MemorySegment cold;
  private final @Nullable Path file;

  private CudaCopyBench(
      Plan plan,
      BenchRecords records,
      List<AllocationHandle> handles,
      BareCopies bare,
      Devices devices,
      MemorySegment pool,
      MemorySegment cold,
      @Nullable Path file) {
    this.file = file;
    this.plan = plan;
    this.records = records;
    this.handles = handles;
    this.bare = bare;
    this.devices = devices;
    this.pool = pool;
    this.cold = cold;
  }

  public static void main(String[] args) throws Exception {
    Plan plan = Plan.of(args);
    BenchRecords records =
        new BenchRecords("io.flexkv.transfer.CudaCopyBench", BenchRecords.machine());
    String[] sizes = new String[plan.layers() + 1];
    Arrays.fill(sizes, Long.toString(plan.layerBytes()));
    sizes[0] = Long.toString(plan.gpuBytes());
    MemorySegment pool = BenchPool.map(plan.hostBytes());
    MemorySegment cold = BenchPool.mapEmpty(plan.coldBytes());
    try (BenchChild owner = new BenchChild("cuda_memory.py", sizes);
        Devices devices = new Devices(List.of(pool, cold), CudaCopyPath.AUTO)) {
      String[] words = owner.answer().split(" ", -1);
      List<AllocationHandle> handles = new ArrayList<>();
      for (int i = 0; i < sizes.length; i++) {
        handles.add(
            new AllocationHandle.CudaIpc(words[i + 1], 0, Long.parseLong(sizes[i]), words[0]));
      }
      List<String> hex = Arrays.asList(words).subList(1, words.length);
      try (BareCopies bare = new BareCopies(plan.bare(), plan.hostBytes(), hex)) {
        new CudaCopyBench(
                plan,
                records,
                handles,
                bare,
                devices,
                pool,
                cold,
                args.length > 1 ? Path.of(args[1]) : null)
            .run();
      }
    }
    System.out.println(records.json());
  }

  private void run() throws IOException, DeviceException {
    beforeAllIsPinned();
    hitsBeyondTheLink();
    loadsBesideSaves();
    save();
    withoutTheMover();
    for (int width = plan.smallest(); width <= plan.largest(); width *= 2) {
      if (width > LARGE_WIDTH && Integer.numberOfTrailingZeros(width) % 2 == 0) {
        continue;
      }
      for (boolean single : new boolean[] {false, true}) {
        measure(new BareCopies.Rows(single, plan.layers(), width, 1));
        if (width < LARGE_WIDTH) {
          measure(new BareCopies.Rows(single, plan.layers(), width, RUN));
        }
      }
    }
  }

  private void measure(BareCopies.Rows rows) throws IOException, DeviceException {
    measure(rows, Direction.LOAD);
    measure(rows, Direction.SAVE);
    measure(rows, null);
    save();
  }

  /** After each geometry: what was measured before a failure is worth having. */
  private void save() throws IOException {
    if (file != null) {
      records.write(file);
    }
  }

  // ------------------------------------------------------------------ rows of every size

  /**
   * @param direction null for both at once; saves do not give way to loads then
   */
  private void measure(BareCopies.Rows rows, @Nullable Direction direction)
      throws IOException, DeviceException {
    BareCopies.Primitive best = best(rows, direction);
    double[] link = new double[plan.rounds()];
    double[] loop = new double[plan.rounds()];
    double[] ours = new double[plan.rounds()];
    for (int from = 0; from < plan.rounds(); from += TURN) {
      int to = Math.min(plan.rounds(), from + TURN);
      bare(direction, BareCopies.Primitive.BATCH, rows, from);
      for (int round = from - 1; round < to; round++) {
        double linkRate = bare(direction, BareCopies.Primitive.LINK, rows, round);
        double loopRate = bare(direction, best, rows, round);
        if (round >= from) {
          link[round] = linkRate;
          loop[round] = loopRate;
        }
      }
      try (DeviceMemory memory = devices.open(layout(rows));
          MoverDriver mover = new MoverDriver(memory, 0)) {
        for (int pass = 1; pass <= WARM_UP; pass++) {
          mover(mover, rows, Direction.LOAD, ~pass);
        }
        for (int round = from - 1; round < to; round++) {
          double rate = mover(mover, rows, direction, round);
          if (round >= from) {
            ours[round] = rate;
          }
        }
      }
      tell(rows, direction, from, link, loop, ours);
    }
    String name = "%s, %s".formatted(direction == null ? "both ways" : direction, rows.text());
    records.add(
        name + ", against the bare " + best.word(),
        median(ours),
        "GB/s",
        median(loop),
        direction == null ? linkBar(rows, null) : MOVER_BAR);
    records.add(
        name + ", against the link", median(ours), "GB/s", median(link), linkBar(rows, direction));
  }

  /** Each pass of a turn, for who wonders at a median. */
  private static void tell(
      BareCopies.Rows rows, @Nullable Direction direction, int from, double[]... sides) {
    for (double[] rates : sides) {
      int to = Math.min(rates.length, from + TURN);
      System.err.printf(
          "%s, %s, GB/s: %s%n",
          direction == null ? "both ways" : direction,
          rows.text(),
          Arrays.toString(Arrays.copyOfRange(rates, from, to)));
    }
  }

  /** The call that moves these rows best here and now. */
  private BareCopies.Primitive best(BareCopies.Rows rows, @Nullable Direction direction)
      throws IOException {
    BareCopies.Primitive best = BareCopies.Primitive.BATCH;
    double bestRate = 0;
    for (BareCopies.Primitive primitive : BareCopies.Primitive.values()) {
      if (!primitive.applies(rows)) {
        continue;
      }
      double[] rates = new double[TRIALS];
      for (int i = 0; i < TRIALS; i++) {
        rates[i] = bare(direction, primitive, rows, i);
      }
      records.add(
          "bare %s, %s, %s"
              .formatted(
                  primitive.word(), direction == null ? "both ways" : direction, rows.text()),
          median(rates),
          "GB/s");
      if (median(rates) > bestRate) {
        best = primitive;
        bestRate = median(rates);
      }
    }
    return best;
  }

  private double bare(
      @Nullable Direction direction, BareCopies.Primitive primitive, BareCopies.Rows rows, int seed)
      throws IOException {
    return bare.copy(direction, primitive, rows, plan.passBytes(), seed + 100).gigabytesPerSecond();
  }

  private double mover(
      MoverDriver mover, BareCopies.Rows rows, @Nullable Direction direction, int seed)
      throws DeviceException {
    MoverDriver.Blocks blocks = blocks(rows, plan.passBytes(), seed, 0);
    long bytes = (long) blocks.blocks().length * plan.layers() * rows.width();
    int perJob = (int) Math.max(1, JOB_BYTES / ((long) plan.layers() * rows.width()));
    if (direction != null) {
      return (double) bytes / mover.copy(direction, blocks.blocks(), blocks.hosts(), perJob);
    }
    MoverDriver.Blocks others = blocks(rows, plan.passBytes(), ~seed, plan.passBytes());
    return 2.0 * bytes / mover.copyBothWays(blocks, others, perJob);
  }

  private RankLayout layout(BareCopies.Rows rows) throws DeviceException {
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
  private MoverDriver.Blocks blocks(BareCopies.Rows rows, long bytes, int seed, long hostOffset) {
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

  /** The share of the link that is asked for. */
  private static double linkBar(BareCopies.Rows rows, @Nullable Direction direction) {
    int kib = rows.width() >> 10;
    if (direction == null) {
      return kib >= 64 ? 0.9 : 0;
    }
    if (kib >= 64) {
      return 0.96;
    }
    if (kib == 32) {
      return direction == Direction.LOAD || rows.single() ? 0.93 : 0.8;
    }
    if (rows.run() >= RUN) {
      return 0.92;
    }
    return switch (kib) {
      case 16 -> rows.single() ? 0.86 : 0.33;
      case 8 -> rows.single() ? 0.78 : 0.3;
      default -> rows.single() ? 0.66 : 0.17;
    };
  }

  // ------------------------------------------------------------------ one job at a time

  /** What a load takes from its submission to its completion, beyond the link's time for it. */
  private void hitsBeyondTheLink() throws IOException, DeviceException {
    BareCopies.Rows rows = new BareCopies.Rows(false, plan.layers(), USUAL_WIDTH, 1);
    try (DeviceMemory memory = devices.open(layout(rows));
        MoverDriver mover = new MoverDriver(memory)) {
      long smallest = (long) plan.layers() * rows.width();
      for (long bytes = smallest; bytes <= plan.passBytes(); bytes *= 8) {
        double[] beyond = new double[plan.rounds()];
        for (int round = -1; round < plan.rounds(); round++) {
          MoverDriver.Blocks blocks = blocks(rows, bytes, round, 0);
          long link = bare.copy(Direction.LOAD, BareCopies.Primitive.LINK, rows, bytes, 0).nanos();
          long ours =
              mover.copy(Direction.LOAD, blocks.blocks(), blocks.hosts(), blocks.blocks().length);
          if (round >= 0) {
            beyond[round] = (ours - link) / 1e6;
          }
        }
        records.add(
            "a load of %d MiB, time beyond a bare copy of as much".formatted(bytes >> 20),
            median(beyond),
            "ms");
      }
    }
  }

  /** Where the time goes of rows that need many copies: the slices of a mover without one. */
  private void withoutTheMover() throws IOException, DeviceException {
    for (boolean single : new boolean[] {true, false}) {
      for (int width : new int[] {plan.smallest(), plan.smallest() * 4}) {
        BareCopies.Rows rows = new BareCopies.Rows(single, plan.layers(), width, 1);
        try (DeviceMemory memory = devices.open(layout(rows))) {
          for (Direction direction : Direction.values()) {
            long longest;
            try (CopyStream stream = memory.openStream(direction)) {
              longest = stream.limits().bytes();
            }
            withoutTheMover(memory, rows, direction, true, longest);
            for (long most = longest; most >= longest / 4; most /= 2) {
              withoutTheMover(memory, rows, direction, false, most);
            }
          }
        }
      }
    }
    save();
  }

  private void withoutTheMover(
      DeviceMemory memory, BareCopies.Rows rows, Direction direction, boolean patient, long most)
      throws DeviceException {
    double[] rate = new double[plan.rounds()];
    double[] micros = new double[plan.rounds()];
    try (StreamCopies stream = new StreamCopies(memory, direction, patient, most)) {
      for (int round = -1; round < plan.rounds(); round++) {
        StreamCopies.Pass pass = stream.copy(blocks(rows, plan.passBytes(), round, 0));
        if (round >= 0) {
          rate[round] = pass.gigabytesPerSecond();
          micros[round] = pass.microsPerCopy();
        }
      }
    }
    String name =
        "slices of %d MiB without a mover%s, %s, %s"
            .formatted(most >> 20, patient ? ", polled when full" : "", direction, rows.text());
    records.add(name, median(rate), "GB/s");
    records.add(name + ", the driver's call, of each copy", median(micros), "us");
  }

  private void loadsBesideSaves() throws DeviceException {
    BareCopies.Rows rows = new BareCopies.Rows(false, plan.layers(), USUAL_WIDTH, 1);
    for (long pause : new long[] {SliceBudget.SAVE_PAUSE_NANOS, 0}) {
      try (DeviceMemory memory = devices.open(layout(rows));
          MoverDriver mover = new MoverDriver(memory, pause)) {
        double[] alone = new double[plan.rounds()];
        double[] beside = new double[plan.rounds()];
        for (int round = 0; round < plan.rounds(); round++) {
          MoverDriver.Blocks load = blocks(rows, plan.passBytes(), round, 0);
          MoverDriver.Blocks save = blocks(rows, plan.passBytes(), ~round, plan.passBytes());
          long bytes = (long) load.blocks().length * plan.layers() * rows.width();
          int all = load.blocks().length;
          alone[round] =
              (double) bytes / mover.copy(Direction.LOAD, load.blocks(), load.hosts(), all);
          beside[round] = (double) bytes / mover.loadBesideSave(load, save);
        }
        records.add(
            "a load beside a save that rests %d ms between slices, against the load alone"
                .formatted(pause / 1_000_000),
            median(beside),
            "GB/s",
            median(alone),
            0.9);
      }
    }
  }

  /** Copies out of the part that is pinned, while the rest gets its pages and is pinned. */
  private void beforeAllIsPinned() throws DeviceException {
    BareCopies.Rows rows = new BareCopies.Rows(false, plan.layers(), USUAL_WIDTH, 1);
    long bytes = Math.min(64L << 20, plan.passBytes());
    try (DeviceMemory memory = devices.open(layout(rows));
        MoverDriver mover = new MoverDriver(memory)) {
      MoverDriver.Blocks blocks = blocks(rows, bytes, 1, 0);
      int all = blocks.blocks().length;
      long begin = System.nanoTime();
      await(pool.byteSize());
      mover.copy(Direction.LOAD, blocks.blocks(), blocks.hosts(), all); // the first is the slowest
      List<Long> during = new ArrayList<>();
      BenchPool.populateBesides(cold);
      long total = pool.byteSize() + plan.coldBytes();
      while (devices.pinnedBytes() < total) {
        during.add(mover.copy(Direction.LOAD, blocks.blocks(), blocks.hosts(), all));
        if (System.nanoTime() - begin > 120_000_000_000L) {
          throw new DeviceException(DeviceException.Kind.COPY, "the pool is not pinned in 120 s");
        }
      }
      records.add("the pool pinned beside copies without a pause", elapsed(begin), "s");
      List<Long> after = new ArrayList<>();
      for (int i = 0; i < Math.max(plan.rounds(), during.size()); i++) {
        after.add(mover.copy(Direction.LOAD, blocks.blocks(), blocks.hosts(), all));
      }
      Collections.sort(during);
      Collections.sort(after);
      if (!during.isEmpty()) {
        records.add(
            "64 MiB while the pool is pinned, longest of %d".formatted(during.size()),
            during.getLast() / 1e6,
            "ms");
        records.add(
            "64 MiB while the pool is pinned, 99th of a hundred",
            during.get((int) (during.size() * 0.99)) / 1e6,
            "ms");
        records.add("64 MiB while the pool is pinned, median", middle(during), "ms");
      }
      records.add(
          "64 MiB with the pool pinned, longest of %d".formatted(after.size()),
          after.getLast() / 1e6,
          "ms");
      records.add("64 MiB with the pool pinned, median", middle(after), "ms");
    }
  }

  private void await(long pinned) throws DeviceException {
    long begin = System.nanoTime();
    while (devices.pinnedBytes() < pinned) {
      if (System.nanoTime() - begin > 60_000_000_000L) {
        throw new DeviceException(DeviceException.Kind.COPY, "the pool is not pinned in 60 s");
      }
      Thread.onSpinWait();
    }
  }

  private static double elapsed(long begin) {
    return (System.nanoTime() - begin) / 1e9;
  }

  private static double middle(List<Long> sorted) {
    return sorted.get(sorted.size() / 2) / 1e6;
  }

  private static double median(double[] values) {
    double[] sorted = values.clone();
    Arrays.sort(sorted);
    return sorted[sorted.length / 2];
  }
}
