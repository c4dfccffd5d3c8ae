package io.flexkv.tier.ssd;

import java.io.IOException;
import java.lang.System.Logger.Level;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.BiConsumer;
import java.util.stream.LongStream;

/** Opens the directories of a store together: what one of them holds may depend on the others. */
final class SsdOpening {
  private static final System.Logger LOG = System.getLogger(SsdOpening.class.getName());

  private SsdOpening() {}

  static SsdEngine open(SsdOptions options, SsdTuning tuning, Runnable wakeUp) throws IOException {
    return open(options, tuning, wakeUp, (path, cause) -> {});
  }

  static SsdEngine open(
      SsdOptions options, SsdTuning tuning, Runnable wakeUp, BiConsumer<Path, String> unusable)
      throws IOException {
    List<DirectoryFiles> files = new ArrayList<>();
    try {
      openAll(options, tuning, files, unusable);
      dropOrphans(files);
      return new SsdEngine(files, options, tuning, wakeUp);
    } catch (IOException | RuntimeException e) {
      for (DirectoryFiles opened : files) {
        opened.close();
      }
      throw e;
    }
  }

  private static void openAll(
      SsdOptions options,
      SsdTuning tuning,
      List<DirectoryFiles> files,
      BiConsumer<Path, String> unusable)
      throws IOException {
    SecureRandom random = new SecureRandom();
    long share = options.share();
    Set<Path> seen = new HashSet<>();
    Map<Path, IOException> failed = new LinkedHashMap<>();
    for (Path directory : options.directories()) {
      Path path = directory.toAbsolutePath().normalize();
      if (!seen.add(Files.exists(path) ? path.toRealPath() : path)) {
        throw new IOException(
            "ssd_cache_dir names %s twice: one folder on each disk is meant".formatted(directory));
      }
      try {
        files.add(
            DirectoryFiles.open(path, share, options.maxFileBytes(), tuning.extentBytes(), random));
        warnOfMemory(path);
      } catch (SsdInUseException e) {
        throw e; // two owners would be a mistake of whoever configured it
      } catch (IOException e) {
        failed.put(path, e);
      }
    }
    failed.forEach((path, e) -> unusable.accept(path, why(e)));
    if (options.directories().size() > 1) { // of a single one the caller says all
      String rest = files.isEmpty() ? "no other serves" : "the others go on";
      failed.forEach((path, e) ->
          LOG.log(Level.ERROR, "SSD directory {0} cannot be used, {1}: {2}", path, rest, why(e)));
    }
    if (files.isEmpty() && !failed.isEmpty()) {
      IOException first = failed.values().iterator().next();
      throw new IOException("no SSD directory can be used: " + why(first), first);
    }
  }

  /** A file system that is memory can be used, but hardly anybody means it. */
  private static void warnOfMemory(Path path) {
    String warning = "";
    try {
      warning = memoryWarning(path, Files.getFileStore(path).type());
    } catch (IOException e) {
      LOG.log(Level.DEBUG, "of what type the file system of {0} is cannot be told: {1}", path, e);
    }
    if (!warning.isEmpty()) {
      LOG.log(Level.WARNING, "{0}", warning);
    }
  }

  /**
   * A sentence where it is memory, else nothing.
   *
   * @param type of the directory's file system
   */
  static String memoryWarning(Path path, String type) {
    return type.equals("tmpfs") || type.equals("ramfs")
        ? "SSD directory %s is of type %s: that is memory, no disk, taken besides cpu_cache_gb and"
                .formatted(path, type)
            + " gone with the machine. Remedy: set ssd_cache_dir (FLEXKV_SSD_CACHE_DIR) to a folder"
            + " of a local disk"
        : "";
  }

  /**
   * Drops what a directory holds unless all are there with which it was used: one of the others may
   * know of a reset that this one has missed.
   */
  private static void dropOrphans(List<DirectoryFiles> files) {
    Set<Long> present = new HashSet<>();
    Map<DirectoryMeta.Digest, Integer> generations = new HashMap<>();
    for (DirectoryFiles opened : files) {
      if (!opened.fresh()) {
        present.add(opened.meta().directoryId);
      }
      opened.meta().generations.forEach((digest, g) -> generations.merge(digest, g, Math::max));
    }
    boolean tooMany = generations.size() > DirectoryMeta.MAX_NAMESPACES;
    SecureRandom random = new SecureRandom();
    for (DirectoryFiles opened : files) {
      if (tooMany) {
        opened.format("it has too many namespaces", random.nextLong());
      } else if (LongStream.of(opened.meta().members).anyMatch(id -> !present.contains(id))) {
        opened.format("a directory is missing that was in use with it", random.nextLong());
      }
      if (!tooMany) {
        // What one of them knew counts for all, dropped or not.
        opened.meta().generations.putAll(generations);
      }
    }
  }

  /**
   * What went wrong, with the remedy, for people: the JDK's errors of the file system often say the
   * path alone. Ours say all themselves.
   */
  static String why(Exception e) {
    return e instanceof FileSystemException f
        ? "%s %s. Remedy: set ssd_cache_dir (FLEXKV_SSD_CACHE_DIR) to a folder of a local disk that"
                .formatted(f.getFile(), cause(f))
            + " this user can write"
        : String.valueOf(e.getMessage());
  }

  private static String cause(FileSystemException e) {
    return switch (e) {
      case NoSuchFileException missing -> "is not there and cannot be made";
      case AccessDeniedException denied -> "may not be used: permission denied";
      case FileAlreadyExistsException other -> "is not a folder";
      default -> "cannot be used: %s".formatted(Objects.requireNonNullElse(e.getReason(), e));
    };
  }

  /** Opens a directory as if it had never been used. */
  static DirectoryFiles openEmpty(Path path, SsdOptions options, SsdTuning tuning)
      throws IOException {
    SecureRandom random = new SecureRandom();
    long share = options.share();
    DirectoryFiles files =
        DirectoryFiles.open(path, share, options.maxFileBytes(), tuning.extentBytes(), random);
    files.format("it was out while others went on", random.nextLong());
    return files;
  }
}
