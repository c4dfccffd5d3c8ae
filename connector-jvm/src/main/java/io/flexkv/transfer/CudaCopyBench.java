package io.flexkv.transfer;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.CopyStream;
import io.flexkv.device.CudaCopyPath;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Devices;
import io.flexkv.device.Direction;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * How long a copy waits while the pool is being pinned, what a hit pays beyond the link's time,
 * what a load loses to a save beside it; then how much of the link comes through the mover, for
 * rows of every size ({@link BenchTurns}). Prints the records as JSON.
 *
 * <p>Usage: {@code java -cp flexkv-sidecar.jar io.flexkv.transfer.CudaCopyBench BARE_COPY
 * [records.json [rounds [GPU bytes [bytes a pass [bytes of cold pool [smallest KiB [largest KiB
 * [layers]]]]]]]]}, where BARE_COPY is {@code tests/gpu/bare_copy.cpp}, compiled.
 */
public final class CudaCopyBench {
  /** From here on neighbours gain nothing, and every other width will do. */
  private static final int LARGE_WIDTH = 128 << 10;

  private static final int USUAL_WIDTH = 64 << 10;

  private final BenchRig rig;
  private final BenchRig.Plan plan;
  private final BenchRecords records;
  private final @Nullable Path file;

  private CudaCopyBench(BenchRig rig, @Nullable Path file) {
    this.rig = rig;
    this.plan = rig.plan();
    this.records = rig.records();
    this.file = file;
  }

  public static void main(String[] args) throws Exception {
    BenchRig.Plan plan = BenchRig.Plan.of(args);
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
        BenchRig rig = new BenchRig(plan, records, handles, bare, devices, pool, cold);
        new CudaCopyBench(rig, args.length > 1 ? Path.of(args[1]) : null).run();
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
    BenchTurns turns = new BenchTurns(rig);
    for (int width = plan.smallest(); width <= plan.largest(); width *= 2) {
      if (width > LARGE_WIDTH && Integer.numberOfTrailingZeros(width) % 2 == 0) {
        continue;
      }
      for (boolean single : new boolean[] {false, true}) {
        measure(turns, new BareCopies.Rows(single, plan.layers(), width, 1));
        if (width < LARGE_WIDTH) {
          measure(turns, new BareCopies.Rows(single, plan.layers(), width, BenchTurns.RUN));
        }
      }
    }
    records.check("both sides on one processor at a time", turns.onOneProcessor());
    save();
  }

  private void measure(BenchTurns turns, BareCopies.Rows rows) throws IOException, DeviceException {
    turns.measure(rows);
    save();
  }

  /** After each geometry: what was measured before a failure is worth having. */
  private void save() throws IOException {
    if (file != null) {
      records.write(file);
    }
  }

  // ------------------------------------------------------------------ one job at a time

  /** What a load takes from its submission to its completion, beyond the link's time for it. */
  private void hitsBeyondTheLink() throws IOException, DeviceException {
    BareCopies.Rows rows = new BareCopies.Rows(false, plan.layers(), USUAL_WIDTH, 1);
    try (DeviceMemory memory = rig.devices().open(rig.layout(rows));
        MoverDriver mover = new MoverDriver(memory)) {
      long smallest = (long) plan.layers() * rows.width();
      for (long bytes = smallest; bytes <= plan.passBytes(); bytes *= 8) {
        double[] beyond = new double[plan.rounds()];
        for (int round = -1; round < plan.rounds(); round++) {
          MoverDriver.Blocks blocks = rig.blocks(rows, bytes, round, 0);
          long link =
              rig.bare().copy(Direction.LOAD, BareCopies.Primitive.LINK, rows, bytes, 0).nanos();
          long ours =
              mover.copy(Direction.LOAD, blocks.blocks(), blocks.hosts(), blocks.blocks().length);
          if (round >= 0) {
            beyond[round] = (ours - link) / 1e6;
          }
        }
        records.add(
            "a load of %d MiB, time beyond a bare copy of as much".formatted(bytes >> 20),
            BenchRig.median(beyond),
            "ms");
      }
    }
  }

  /** Where the time goes of rows that need many copies: the slices of a mover without one. */
  private void withoutTheMover() throws IOException, DeviceException {
    for (boolean single : new boolean[] {true, false}) {
      for (int width : new int[] {plan.smallest(), plan.smallest() * 4}) {
        BareCopies.Rows rows = new BareCopies.Rows(single, plan.layers(), width, 1);
        try (DeviceMemory memory = rig.devices().open(rig.layout(rows))) {
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
        StreamCopies.Pass pass = stream.copy(rig.blocks(rows, plan.passBytes(), round, 0));
        if (round >= 0) {
          rate[round] = pass.gigabytesPerSecond();
          micros[round] = pass.microsPerCopy();
        }
      }
    }
    String name =
        "slices of %d MiB without a mover%s, %s, %s"
            .formatted(most >> 20, patient ? ", polled when full" : "", direction, rows.text());
    records.add(name, BenchRig.median(rate), "GB/s");
    records.add(name + ", the driver's call, of each copy", BenchRig.median(micros), "us");
  }

  private void loadsBesideSaves() throws DeviceException {
    BareCopies.Rows rows = new BareCopies.Rows(false, plan.layers(), USUAL_WIDTH, 1);
    for (long pause : new long[] {SliceBudget.SAVE_PAUSE_NANOS, 0}) {
      try (DeviceMemory memory = rig.devices().open(rig.layout(rows));
          MoverDriver mover = new MoverDriver(memory, pause)) {
        double[] alone = new double[plan.rounds()];
        double[] beside = new double[plan.rounds()];
        for (int round = 0; round < plan.rounds(); round++) {
          MoverDriver.Blocks load = rig.blocks(rows, plan.passBytes(), round, 0);
          MoverDriver.Blocks save = rig.blocks(rows, plan.passBytes(), ~round, plan.passBytes());
          long bytes = (long) load.blocks().length * plan.layers() * rows.width();
          int all = load.blocks().length;
          alone[round] =
              (double) bytes / mover.copy(Direction.LOAD, load.blocks(), load.hosts(), all);
          beside[round] = (double) bytes / mover.loadBesideSave(load, save);
        }
        records.add(
            "a load beside a save that rests %d ms between slices, against the load alone"
                .formatted(pause / 1_000_000),
            BenchRig.median(beside),
            "GB/s",
            BenchRig.median(alone),
            0.9);
      }
    }
  }

  /** Copies out of the part that is pinned, while the rest gets its pages and is pinned. */
  private void beforeAllIsPinned() throws DeviceException {
    BareCopies.Rows rows = new BareCopies.Rows(false, plan.layers(), USUAL_WIDTH, 1);
    long bytes = Math.min(64L << 20, plan.passBytes());
    try (DeviceMemory memory = rig.devices().open(rig.layout(rows));
        MoverDriver mover = new MoverDriver(memory)) {
      MoverDriver.Blocks blocks = rig.blocks(rows, bytes, 1, 0);
      int all = blocks.blocks().length;
      long begin = System.nanoTime();
      await(rig.pool().byteSize());
      mover.copy(Direction.LOAD, blocks.blocks(), blocks.hosts(), all); // the first is the slowest
      List<Long> during = new ArrayList<>();
      BenchPool.populateBesides(rig.cold());
      long total = rig.pool().byteSize() + plan.coldBytes();
      while (rig.devices().pinnedBytes() < total) {
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
    while (rig.devices().pinnedBytes() < pinned) {
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
}
