package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** Looks a directory over that nobody uses: reads every block and compares its checksum. */
public final class SsdDoctor {
  private static final int THREADS = 4;

  private final SsdDirectory directory;
  private final Consumer<String> say;
  private final Map<String, long[]> namespaces = new TreeMap<>();
  private long good;
  private long goodBytes;
  private long bad;
  private long unreadable;

  private SsdDoctor(SsdDirectory directory, Consumer<String> say) {
    this.directory = directory;
    this.say = say;
  }

  /**
   * What was found.
   *
   * @param good blocks that verify
   * @param goodBytes their payload
   * @param bad blocks whose bytes are not those that were written
   * @param unreadable blocks that the disk does not give
   * @param clean whether the last owner ended by itself; if not, a few bad blocks are slots that
   *     were being written when the end came, and no sign of a bad disk
   */
  public record Report(long good, long goodBytes, long bad, long unreadable, boolean clean) {
    /** Whether there is nothing to worry about. */
    public boolean healthy() {
      return bad + unreadable == 0;
    }
  }

  /**
   * Examines a directory; nothing in it is changed.
   *
   * @param say told of what is found, a line at a time
   * @throws SsdInUseException while a sidecar uses it
   * @throws IOException if it is no directory of this store
   */
  public static Report examine(Path path, Consumer<String> say) throws IOException {
    if (!Files.isDirectory(path)) {
      throw new IOException(path + " is not a folder: name one that ssd_cache_dir names");
    }
    DirectoryFiles files = open(path.toAbsolutePath().normalize());
    DirectoryMeta meta = files.meta();
    SsdOptions options =
        new SsdOptions(List.of(path), meta.extents * meta.extentBytes, 0, 0, 0, THREADS, 0);
    SsdDirectory directory =
        new SsdDirectory(
            0, files, options, SsdTuning.defaults(), new SsdCounters(), Alone.INSTANCE);
    try {
      return new SsdDoctor(directory, say).examine();
    } finally {
      directory.close(Long.MAX_VALUE / 4);
    }
  }

  private static DirectoryFiles open(Path path) throws IOException {
    try {
      return DirectoryFiles.openToExamine(path);
    } catch (FileSystemException e) {
      String cause = e instanceof AccessDeniedException ? "permission denied" : e.getReason();
      throw new IOException(
          "%s cannot be opened (%s). Remedy: run this as the user whom the sidecar runs as"
              .formatted(e.getFile(), cause),
          e);
    }
  }

  /** Nobody waits for news. */
  private enum Alone implements SsdDirectory.Owner {
    INSTANCE;

    @Override
    public void lost(SsdDirectory lost, String cause) {}

    @Override
    public void wakeUp() {}
  }

  private Report examine() {
    DirectoryMeta meta = directory.files().meta();
    say.accept(
        "%s: format %d, %.1f GB in extents of %d KiB, ended %s"
            .formatted(
                directory.path(),
                DirectoryMeta.VERSION,
                meta.extents * meta.extentBytes / 1e9,
                meta.extentBytes >> 10,
                meta.clean ? "cleanly" : "not cleanly"));
    DirectoryScan scan = DirectoryScan.run(directory);
    say.accept(
        "%d blocks by %.1f MB of headers, %d dropped (older generation, overtaken, unreadable)"
            .formatted(scan.survivors(), scan.bytesRead() / 1e6, scan.dropped()));
    try (Arena arena = Arena.ofShared()) {
      BlockVerifier verifier = new BlockVerifier(directory, arena);
      for (SlotSpan span : scan.spans()) {
        for (int i = 0; i < span.slots; i++) {
          take(span, i, verifier.verify(span, i));
        }
      }
    }
    namespaces.forEach((name, sums) ->
        say.accept("namespace %s: %d blocks, %.3f GB".formatted(name, sums[0], sums[1] / 1e9)));
    say.accept(
        "%d blocks verified (%.3f GB), %d bad, %d unreadable"
            .formatted(good, goodBytes / 1e9, bad, unreadable));
    return new Report(good, goodBytes, bad, unreadable, meta.clean);
  }

  private void take(SlotSpan span, int index, BlockVerifier.@Nullable Finding finding) {
    if (finding == null) {
      return;
    }
    SlotHeader header = finding.header();
    if (finding.good() && header != null) {
      good++;
      goodBytes += header.identity().payloadBytes();
      SlotIdentity identity = header.identity();
      String name =
          "%016x%016x generation %d"
              .formatted(identity.digestHi(), identity.digestLo(), identity.generation());
      long[] sums = namespaces.computeIfAbsent(name, n -> new long[2]);
      sums[0]++;
      sums[1] += identity.payloadBytes();
      return;
    }
    bad += finding.errno() == 0 ? 1 : 0;
    unreadable += finding.errno() == 0 ? 0 : 1;
    DirectoryFiles files = directory.files();
    String what =
        finding.errno() == 0
            ? "checksum %08x, wanted %08x".formatted(finding.found(), finding.wanted())
            : Errno.describe(finding.errno());
    say.accept(
        "file %d, offset %d: %s"
            .formatted(
                files.fileOf(span.offset(index)) - 1, files.within(span.offset(index)), what));
  }

  /** All of several directories; used by the command line. */
  public static boolean examineAll(List<Path> paths, Consumer<String> say) throws IOException {
    Report[] reports = new Report[paths.size()];
    for (int i = 0; i < reports.length; i++) {
      reports[i] = examine(paths.get(i), say);
    }
    return Arrays.stream(reports).allMatch(Report::healthy);
  }
}
