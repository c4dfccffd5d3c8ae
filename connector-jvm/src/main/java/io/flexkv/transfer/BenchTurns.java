package io.flexkv.transfer;

import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import java.io.IOException;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Rows of one size, moved by large copies (the link), by a bare loop over whichever call of the
 * driver moves them best, and by the mover, in turns of {@value #TURN} passes on one processor.
 */
final class BenchTurns {
  private static final int TRIALS = 3;

  /**
   * Passes in a row on one processor. Where rows are copies each, the sides alternate pass by pass
   * in it, for the driver's time for a copy may change within (docs/decisions/
   * hyperthreads-halve-the-drivers-pace.md). Strided copies are fast where the copy engine knows
   * the addresses, and it knows those of some 8 GiB: two processes that copy alternately, over as
   * much each, take them from each other, which an engine and its sidecar do not. So there each
   * side has its passes in a row, and begins with what makes strided copies fast on that side: ours
   * with a registration and some loads, the bare one with plain loads.
   */
  private static final int TURN = 8;

  /** So many strided copies come before what makes them fast ({@code device.CudaSections}). */
  private static final int STRIDED_BEFORE = 256;

  /** What a request of 1,024 tokens of an 8B model has. */
  private static final long JOB_BYTES = 128L << 20;

  /** Wider rows are copies each on our side ({@code device.CudaCopyStream}). */
  private static final int STRIDED_UP_TO = 32 << 10;

  /** Neighbouring blocks, where there are any. */
  static final int RUN = 8;

  private static final double MOVER_BAR = 0.96;

  private final BenchRig rig;
  private final BenchCpus cpus;
  private int turns;

  BenchTurns(BenchRig rig) throws IOException {
    this.rig = rig;
    this.cpus = new BenchCpus();
  }

  /** The rates of one measurement, a pass each. */
  private final class Sides {
    final double[] link = new double[rig.plan().rounds()];
    final double[] loop = new double[rig.plan().rounds()];
    final double[] ours = new double[rig.plan().rounds()];

    /** Of ours to the loop, pass by pass. */
    double[] ratios() {
      double[] ratios = new double[ours.length];
      Arrays.setAll(ratios, i -> ours[i] / loop[i]);
      return ratios;
    }
  }

  /** Whether our side moves such rows as strided copies. */
  private static boolean inARow(BareCopies.Rows rows) {
    return rows.single() && rows.width() <= STRIDED_UP_TO;
  }

  /** Whether each measurement one way was of one processor at a time. */
  boolean onOneProcessor() {
    return cpus.moved();
  }

  void measure(BareCopies.Rows rows) throws IOException, DeviceException {
    measure(rows, Direction.LOAD);
    measure(rows, Direction.SAVE);
    measure(rows, null);
  }

  /**
   * @param direction null for both at once; saves do not give way to loads then
   */
  private void measure(BareCopies.Rows rows, @Nullable Direction direction)
      throws IOException, DeviceException {
    rig.bare().runOn(cpus, direction == null ? cpus.all() : cpus.one(turns));
    warmBare(rows);
    BareCopies.Primitive best = best(rows, direction);
    Sides sides = new Sides();
    int rounds = rig.plan().rounds();
    for (int from = 0; from < rounds; from += TURN) {
      String cpu = direction == null ? cpus.all() : cpus.one(turns++);
      rig.bare().runOn(cpus, cpu);
      turn(rows, direction, best, sides, from, Math.min(rounds, from + TURN), cpu);
    }
    rig.bare().runOn(cpus, cpus.all());
    String name = "%s, %s".formatted(direction == null ? "both ways" : direction, rows.text());
    double ours = BenchRig.median(sides.ours);
    double loop = BenchRig.median(sides.loop);
    rig.records()
        .add(
            name + ", against the bare " + best.word(),
            ours,
            "GB/s",
            loop,
            inARow(rows) ? ours / loop : BenchRig.median(sides.ratios()),
            direction == null ? linkBar(rows, null) : MOVER_BAR);
    rig.records()
        .add(
            name + ", against the link",
            ours,
            "GB/s",
            BenchRig.median(sides.link),
            linkBar(rows, direction));
  }

  private void turn(
      BareCopies.Rows rows,
      @Nullable Direction direction,
      BareCopies.Primitive best,
      Sides sides,
      int from,
      int to,
      String cpu)
      throws IOException, DeviceException {
    boolean inARow = inARow(rows);
    warmBare(rows);
    for (int round = from - 1; inARow && round < to; round++) {
      bare(sides, rows, direction, best, round, from);
    }
    try (DeviceMemory memory = rig.devices().open(rig.layout(rows));
        MoverDriver mover = on(cpu, memory)) {
      for (int pass = 1; pass <= warmUps(rows); pass++) {
        mover(mover, rows, Direction.LOAD, ~pass);
      }
      for (int round = from - 1; round < to; round++) {
        if (!inARow) {
          bare(sides, rows, direction, best, round, from);
        }
        double rate = mover(mover, rows, direction, round);
        if (round >= from) {
          sides.ours[round] = rate;
        }
      }
    }
    tell(rows, direction, cpu, from, to, sides);
  }

  /** Loads until strided copies are as fast as they get, saves too. */
  private int warmUps(BareCopies.Rows rows) {
    long block = (long) rig.plan().layers() * rows.width();
    return 2 + (int) (STRIDED_BEFORE * block / rig.plan().passBytes());
  }

  /** Plain loads, which make strided copies fast on that side, saves too. */
  private void warmBare(BareCopies.Rows rows) throws IOException {
    bare(Direction.LOAD, BareCopies.Primitive.BATCH, rows, 0);
  }

  private MoverDriver on(String cpu, DeviceMemory memory) throws IOException, DeviceException {
    cpus.moveThisThread(cpu);
    try {
      return new MoverDriver(memory, 0);
    } finally {
      cpus.moveThisThread(cpus.all());
    }
  }

  /** The first pass of a turn is not counted. */
  private void bare(
      Sides sides,
      BareCopies.Rows rows,
      @Nullable Direction direction,
      BareCopies.Primitive best,
      int round,
      int from)
      throws IOException {
    double link = bare(direction, BareCopies.Primitive.LINK, rows, round);
    double loop = bare(direction, best, rows, round);
    if (round >= from) {
      sides.link[round] = link;
      sides.loop[round] = loop;
    }
  }

  /** Each pass of a turn, for who wonders at a median. */
  private static void tell(
      BareCopies.Rows rows,
      @Nullable Direction direction,
      String cpu,
      int from,
      int to,
      Sides sides) {
    for (double[] rates : new double[][] {sides.link, sides.loop, sides.ours}) {
      System.err.printf(
          "%s, %s, GB/s on %s: %s%n",
          direction == null ? "both ways" : direction,
          rows.text(),
          cpu,
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
      rig.records()
          .add(
              "bare %s, %s, %s"
                  .formatted(
                      primitive.word(), direction == null ? "both ways" : direction, rows.text()),
              BenchRig.median(rates),
              "GB/s");
      if (BenchRig.median(rates) > bestRate) {
        best = primitive;
        bestRate = BenchRig.median(rates);
      }
    }
    return best;
  }

  private double bare(
      @Nullable Direction direction, BareCopies.Primitive primitive, BareCopies.Rows rows, int seed)
      throws IOException {
    long bytes = rig.plan().passBytes();
    return rig.bare().copy(direction, primitive, rows, bytes, seed + 100).gigabytesPerSecond();
  }

  private double mover(
      MoverDriver mover, BareCopies.Rows rows, @Nullable Direction direction, int seed)
      throws DeviceException {
    long pass = rig.plan().passBytes();
    MoverDriver.Blocks blocks = rig.blocks(rows, pass, seed, 0);
    long part = (long) rig.plan().layers() * rows.width();
    long bytes = blocks.blocks().length * part;
    int perJob = (int) Math.max(1, JOB_BYTES / part);
    if (direction != null) {
      return (double) bytes / mover.copy(direction, blocks.blocks(), blocks.hosts(), perJob);
    }
    MoverDriver.Blocks others = rig.blocks(rows, pass, ~seed, pass);
    return 2.0 * bytes / mover.copyBothWays(blocks, others, perJob);
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
}
