package io.flexkv.transfer;

import io.flexkv.device.Direction;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.Writer;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/**
 * {@code tests/gpu/bare_copy.cpp} as a child: the same bytes between the same GPU memory and host
 * memory of the same kind, by nothing but the driver's calls.
 */
final class BareCopies implements AutoCloseable {
  /** What moves the rows; the names are the program's. */
  enum Primitive {
    LINK,
    BATCH,
    ROWS2D,
    ROWS3D,
    LONG,
    LONGROWS,
    RUNS3D;

    String word() {
      return name().toLowerCase(Locale.ROOT);
    }

    /** Whether it can move rows that lie so at all. */
    boolean applies(Rows rows) {
      return switch (this) {
        case LINK -> false;
        case BATCH -> true;
        case ROWS2D, ROWS3D -> rows.single();
        case LONG, RUNS3D -> rows.run() > 1;
        case LONGROWS -> rows.single() && rows.run() > 1;
      };
    }

    /** Whether the host keeps the rows of a run's blocks together, layer by layer. */
    boolean layerMajor() {
      return this == LONG || this == LONGROWS;
    }
  }

  /** What needs no word in a record's name. */
  static final int USUAL_LAYERS = 32;

  /**
   * How blocks lie on the GPU.
   *
   * @param single all layers in one allocation at one stride, else an allocation each
   * @param width bytes of a block in one layer
   * @param run blocks that are neighbours; runs are scattered
   */
  record Rows(boolean single, int layers, int width, int run) {
    String text() {
      return "%d KiB rows, %s%s, %s"
          .formatted(
              width >> 10,
              layers == USUAL_LAYERS ? "" : layers + " layers, ",
              single ? "one allocation" : "an allocation a layer",
              run == 1 ? "scattered" : "runs of " + run);
    }
  }

  /** How fast it went; 0 bytes if the driver refused. */
  record Rate(long bytes, long nanos) {
    double gigabytesPerSecond() {
      return nanos == 0 ? 0 : (double) bytes / nanos;
    }
  }

  private final Process process;
  private final BufferedReader answers;
  private final Writer commands;

  BareCopies(String program, long hostBytes, List<String> handles) throws IOException {
    List<String> command = new ArrayList<>(List.of(program, Long.toString(hostBytes)));
    command.addAll(handles);
    process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    answers = process.inputReader();
    commands = process.outputWriter();
    if (!"ready".equals(answers.readLine())) {
      throw new IOException(program + " ended before it was ready");
    }
  }

  /** Runs on these processors from now on. */
  void runOn(BenchCpus cpus, String list) throws IOException {
    cpus.move(Long.toString(process.pid()), list);
  }

  /** One pass; {@code direction} null moves half of the bytes each way at once. */
  Rate copy(@Nullable Direction direction, Primitive primitive, Rows rows, long bytes, int seed)
      throws IOException {
    commands.write(
        "copy %s %s %s %d %d %d %d %d\n"
            .formatted(
                direction == null ? "both" : direction.name().toLowerCase(Locale.ROOT),
                primitive.word(),
                rows.single() ? "single" : "apart",
                rows.layers(),
                rows.width(),
                rows.run(),
                bytes,
                seed));
    commands.flush();
    String line = answers.readLine();
    if (line == null) {
      throw new IOException("bare_copy ended");
    }
    String[] words = line.split(" ", -1);
    if (words[0].equals("refused")) {
      return new Rate(0, 0);
    }
    return new Rate(Long.parseLong(words[1]), Long.parseLong(words[0]));
  }

  @Override
  public void close() {
    process.destroyForcibly();
    if (process.onExit().join().isAlive()) {
      throw new IllegalStateException("bare_copy survived its kill");
    }
  }
}
