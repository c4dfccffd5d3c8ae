package io.flexkv.tier.ssd;

import io.flexkv.ffm.DirectFile;
import io.flexkv.ffm.ErrnoException;
import java.io.IOException;
import java.lang.System.Logger.Level;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.math.RoundingMode;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/**
 * The files of a directory, locked and with their room reserved.
 *
 * <pre>
 * flexkv-ssd.lock       owner's process id, locked
 * flexkv-ssd.meta       {@link DirectoryMeta}, twice
 * flexkv-ssd-0000.data  extents, one after another; then -0001 and so on
 * </pre>
 */
final class DirectoryFiles implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger(DirectoryFiles.class.getName());
  private static final String META = "flexkv-ssd.meta";
  private static final long MIN_EXTENT_BYTES = 64L << 10;
  private static final long MAX_EXTENT_BYTES = 64L << 20;
  private static final int EXTENTS_AT_LEAST = 64;

  /** Extents of a directory at least: four for the header log, the rest for slots. */
  static final int MIN_EXTENTS = 8;

  /** What a directory has besides extents: its description, twice. */
  static final long FIXED_BYTES = 2L * DirectoryMeta.BYTES;

  private final Path path;
  private final DirectoryLock lock;
  private final DirectFile metaFile;

  /** Replaced as a whole when the directory gets another size. */
  private volatile List<DirectFile> dataFiles = List.of();

  private DirectoryMeta meta;
  private boolean fresh;
  private boolean endedCleanly;

  private DirectoryFiles(Path path, DirectoryLock lock, DirectFile metaFile, DirectoryMeta meta) {
    this.path = path;
    this.lock = lock;
    this.metaFile = metaFile;
    this.meta = meta;
  }

  /**
   * Opens a directory, or makes one.
   *
   * @param capacityBytes its hard cap, files of constant size included
   * @param maxFileBytes 0 = one file
   * @param extentBytes 0 = chosen by the capacity
   * @throws SsdInUseException if somebody else has it
   */
  static DirectoryFiles open(
      Path path, long capacityBytes, long maxFileBytes, long extentBytes, RandomGenerator random)
      throws IOException {
    long room = capacityBytes - FIXED_BYTES;
    DirectoryMeta wanted = geometry(path, room, maxFileBytes, extentBytes, random.nextLong());
    if (!Files.exists(path.resolve(META)) && Disk.of(path).totalBytes() > 0) {
      checkRoom(path, wanted, wanted.extents); // before anything is made that would be left behind
    }
    makeFolder(path, capacityBytes);
    DirectoryLock lock = DirectoryLock.take(path);
    DirectFile metaFile = null;
    DirectoryFiles files = null;
    try {
      metaFile = openFile(path.resolve(META));
      metaFile.reserve(FIXED_BYTES);
      files = new DirectoryFiles(path, lock, metaFile, wanted);
      files.fresh = true;
      files.attach(wanted, room);
      files.openData();
      return files;
    } catch (IOException | RuntimeException e) {
      if (files != null) {
        files.close();
      } else {
        lock.close();
        if (metaFile != null) {
          metaFile.close();
        }
      }
      throw e;
    }
  }

  /**
   * Opens a directory as it is.
   *
   * @throws IOException if it was never used, or by another version
   */
  static DirectoryFiles openToExamine(Path path) throws IOException {
    if (!Files.exists(path.resolve(META))) {
      throw new IOException(path + " holds no " + META + ": FlexKV has never used it");
    }
    DirectoryLock lock = DirectoryLock.take(path);
    try {
      DirectFile metaFile = DirectFile.openToRead(path.resolve(META));
      DirectoryMeta found = readMeta(path, metaFile);
      DirectoryFiles files = new DirectoryFiles(path, lock, metaFile, found);
      if (!files.filesAreThere(found)) {
        throw new IOException(path + ": data files are missing or too short");
      }
      List<DirectFile> data = new ArrayList<>();
      for (int file = 0; file < fileCount(found, found.extents); file++) {
        data.add(DirectFile.openToRead(files.dataPath(file)));
      }
      files.dataFiles = List.copyOf(data);
      return files;
    } catch (IOException | RuntimeException e) {
      lock.close();
      throw e;
    }
  }

  private static DirectoryMeta readMeta(Path path, DirectFile metaFile) throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment copies = arena.allocate(FIXED_BYTES, SsdStore.PAGE_BYTES);
      long read = metaFile.read(0, copies.address(), copies.byteSize());
      DirectoryMeta found =
          newer(
              DirectoryMeta.decode(copies.asSlice(0, DirectoryMeta.BYTES)),
              DirectoryMeta.decode(copies.asSlice(DirectoryMeta.BYTES, DirectoryMeta.BYTES)));
      if (read != copies.byteSize() || found == null) {
        throw new IOException(
            "%s: %s is damaged, or of another format than %d: the next start empties the directory"
                .formatted(path, META, DirectoryMeta.VERSION));
      }
      return found;
    }
  }

  private static void makeFolder(Path path, long capacityBytes) throws IOException {
    if (Files.exists(path) && !Files.isDirectory(path)) {
      throw new IOException(path + " is not a folder: name one in ssd_cache_dir, or move it away");
    }
    if (Files.isDirectory(path)) {
      return;
    }
    Path parent = path.getParent();
    if (parent != null) {
      Files.createDirectories(parent);
    }
    Files.createDirectory(
        path, PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
    Disk disk = Disk.of(path);
    LOG.log(disk.system() ? Level.WARNING : Level.INFO, disk.madeText(path, capacityBytes));
  }

  private static DirectFile openFile(Path file) throws IOException {
    try {
      return DirectFile.openOrCreate(file);
    } catch (ErrnoException e) {
      if (e.errno() == io.flexkv.ffm.Errno.EINVAL) {
        throw new IOException(
            "the file system of %s cannot read and write past the page cache (O_DIRECT): set"
                    .formatted(file)
                + " ssd_cache_dir to a folder of a local disk",
            e);
      }
      throw e;
    }
  }

  private static DirectoryMeta geometry(
      Path path, long room, long maxFileBytes, long extentBytes, long id) throws IOException {
    long extent = extentBytes > 0 ? extentBytes : defaultExtentBytes(room);
    long count = Math.max(0, room) / extent;
    long pages = count * extent / SsdStore.PAGE_BYTES;
    if (count < MIN_EXTENTS || count > DirectoryMeta.MAX_EXTENTS || pages > Integer.MAX_VALUE - 1) {
      long least = MIN_EXTENTS * (extentBytes > 0 ? extentBytes : MIN_EXTENT_BYTES);
      long most = (Integer.MAX_VALUE - 1L) * SsdStore.PAGE_BYTES;
      throw new IOException(
          "SSD directory %s would have %s GB, wanted %s to %s: change ssd_cache_gb, or the number"
                  .formatted(
                      path,
                      Disk.gigabytes(room + FIXED_BYTES, RoundingMode.DOWN),
                      Disk.gigabytes(least + FIXED_BYTES, RoundingMode.UP),
                      Disk.gigabytes(most + FIXED_BYTES, RoundingMode.DOWN))
              + " of directories in ssd_cache_dir");
    }
    long file = maxFileBytes == 0 ? count * extent : Math.max(1, maxFileBytes / extent) * extent;
    // One file may grow later; of several, each has the same length.
    return new DirectoryMeta(id, extent, maxFileBytes == 0 ? 0 : file, (int) count);
  }

  /**
   * A power of two, 64 KiB to 64 MiB (more where there would be too many), 64 of them if it can.
   */
  static long defaultExtentBytes(long room) {
    long wanted = Long.highestOneBit(Math.max(1, room / EXTENTS_AT_LEAST));
    long extent = Math.max(MIN_EXTENT_BYTES, Math.min(MAX_EXTENT_BYTES, wanted));
    while (room / extent > DirectoryMeta.MAX_EXTENTS) {
      extent *= 2;
    }
    return extent;
  }

  /** Takes over what is there, if it fits; else it stays fresh, with one line that says why. */
  private void attach(DirectoryMeta wanted, long room) throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment copies = arena.allocate(FIXED_BYTES, SsdStore.PAGE_BYTES);
      long read = metaFile.read(0, copies.address(), copies.byteSize());
      if (read != copies.byteSize()) {
        throw new ErrnoException("read(" + metaFile.path() + ") = " + read, (int) -read);
      }
      MemorySegment first = copies.asSlice(0, DirectoryMeta.BYTES);
      MemorySegment second = copies.asSlice(DirectoryMeta.BYTES, DirectoryMeta.BYTES);
      DirectoryMeta found = newer(DirectoryMeta.decode(first), DirectoryMeta.decode(second));
      if (found == null) {
        int version = Math.max(DirectoryMeta.version(first), DirectoryMeta.version(second));
        boolean blank = copies.mismatch(arena.allocate(copies.byteSize())) == -1;
        if (!blank) {
          dropped(version < 0 ? "its description is damaged" : "it has format " + version);
        }
        return;
      }
      int extents = (int) Math.min(room / found.extentBytes, DirectoryMeta.MAX_EXTENTS);
      boolean tooShort = extents < MIN_EXTENTS || found.logExtents.nextSetBit(0) >= extents;
      if (found.fileBytes != wanted.fileBytes || tooShort) {
        dropped(
            "it has %d bytes in files of %d, wanted are %d in files of %d"
                .formatted(
                    found.extents * found.extentBytes,
                    found.fileBytes,
                    wanted.extents * wanted.extentBytes,
                    wanted.fileBytes));
        return;
      }
      if (!filesAreThere(found)) {
        dropped("files are missing or too short");
        return;
      }
      endedCleanly = found.clean;
      if (extents < found.extents) {
        // What lies before the new end stays; the files are cut when that is noted. Headers that
        // lay behind it are lost, and some of those before it may be older than their slots.
        found.clean = false;
      }
      found.resize(extents);
      meta = found;
      fresh = false;
    }
  }

  private static @Nullable DirectoryMeta newer(
      @Nullable DirectoryMeta a, @Nullable DirectoryMeta b) {
    if (a == null || b == null) {
      return a == null ? b : a;
    }
    return a.sequence >= b.sequence ? a : b;
  }

  private boolean filesAreThere(DirectoryMeta found) throws IOException {
    for (int file = 0; file < fileCount(found, found.extents); file++) {
      Path data = dataPath(file);
      if (!Files.isRegularFile(data, LinkOption.NOFOLLOW_LINKS)
          || Files.size(data) < fileLength(found, found.extents, file)) {
        return false;
      }
    }
    return true;
  }

  private void dropped(String why) {
    LOG.log(Level.WARNING, "SSD directory {0}: its contents are dropped, {1}", path, why);
  }

  /** One file has as many as there may be: it grows. */
  private static int extentsPerFile(DirectoryMeta meta) {
    return meta.fileBytes == 0
        ? DirectoryMeta.MAX_EXTENTS
        : (int) (meta.fileBytes / meta.extentBytes);
  }

  private static int fileCount(DirectoryMeta meta, int extents) {
    return (extents + extentsPerFile(meta) - 1) / extentsPerFile(meta);
  }

  /** Length of a file where there are so many extents; 0 for one that is not needed. */
  private static long fileLength(DirectoryMeta meta, int extents, int file) {
    int perFile = extentsPerFile(meta);
    return Math.clamp(extents - (long) file * perFile, 0, perFile) * meta.extentBytes;
  }

  private Path dataPath(int file) {
    return dataPath(path, file);
  }

  private static Path dataPath(Path path, int file) {
    return path.resolve("flexkv-ssd-%04d.data".formatted(file));
  }

  /** Refuses before anything is taken: others live on this disk, too. */
  private static void checkRoom(Path path, DirectoryMeta meta, int extents) throws IOException {
    long more = missing(path, meta, extents);
    Disk disk = Disk.of(path);
    if (more > disk.freeBytes()) {
      throw new IOException(
          "SSD directory %s needs %s GB more, its disk has %s free: make ssd_cache_gb smaller,"
                  .formatted(
                      path,
                      Disk.gigabytes(more, RoundingMode.UP),
                      Disk.gigabytes(disk.freeBytes(), RoundingMode.DOWN))
              + " or free some room");
    }
  }

  /** Bytes that its files lack of so many extents. */
  private static long missing(Path path, DirectoryMeta meta, int extents) throws IOException {
    long more = 0;
    for (int file = 0; file < fileCount(meta, extents); file++) {
      Path data = dataPath(path, file);
      long there = Files.exists(data) ? Files.size(data) : 0;
      more += Math.max(0, fileLength(meta, extents, file) - there);
    }
    return more;
  }

  private void openData() throws IOException {
    boolean reserved = reserve(meta.extents);
    if (fresh) {
      trim();
    }
    if (!reserved) {
      LOG.log(
          Level.WARNING,
          "SSD directory {0}: its file system cannot reserve room; a full disk takes it out",
          path);
    }
  }

  /**
   * Reserves room for so many extents, which are nobody's before the description says so; where
   * that fails all is as before. A file that is longer stays so until {@link #trim}. Not while that
   * runs.
   *
   * @return false where the file system cannot reserve room
   */
  boolean reserve(int extents) throws IOException {
    checkRoom(path, meta, extents);
    List<DirectFile> files = new ArrayList<>(dataFiles);
    boolean reserved = true;
    try {
      for (int file = 0; file < fileCount(meta, extents); file++) {
        if (file == files.size()) {
          files.add(openFile(dataPath(file)));
        }
        long length = fileLength(meta, extents, file);
        if (files.get(file).size() <= length) {
          reserved &= files.get(file).reserve(length);
        }
      }
    } catch (IOException | RuntimeException e) {
      int before = dataFiles.size();
      files.subList(before, files.size()).forEach(DirectFile::close);
      if (before > 0) {
        trim(); // one that is being opened keeps what it finds, for the next try
      }
      throw e;
    }
    dataFiles = List.copyOf(files);
    return reserved;
  }

  /** Cuts off what lies beyond the end that the description gives. Nobody uses that any more. */
  void trim() throws IOException {
    List<DirectFile> all = dataFiles;
    int needed = fileCount(meta, meta.extents);
    for (int file = 0; file < Math.min(needed, all.size()); file++) {
      long length = fileLength(meta, meta.extents, file);
      if (all.get(file).size() > length) {
        all.get(file).truncate(length);
      }
    }
    dataFiles = List.copyOf(all.subList(0, Math.min(needed, all.size())));
    for (DirectFile gone : all.subList(dataFiles.size(), all.size())) {
      gone.truncate(0); // whoever has it open still: its room is free all the same
      gone.close();
    }
    int end = needed;
    while (Files.exists(dataPath(end))) {
      end++;
    }
    // From the last one on: a start looks for one that is too many behind the last that it needs.
    for (int file = end - 1; file >= needed; file--) {
      Files.deleteIfExists(dataPath(file));
      LOG.log(Level.INFO, "SSD directory {0}: {1} is not needed any more", path, dataPath(file));
    }
  }

  /** How many extents so many bytes are: {@link SsdRoom} knows how many there may be. */
  int extentsOf(long capacityBytes) {
    return Math.toIntExact(dataBytesOf(capacityBytes) / meta.extentBytes);
  }

  /** Bytes of the data files of a directory that may have so many bytes in all. */
  long dataBytesOf(long capacityBytes) {
    return (capacityBytes - FIXED_BYTES) / meta.extentBytes * meta.extentBytes;
  }

  /** Bytes of a directory of so many extents in all. */
  long bytesOf(int extents) {
    return extents * meta.extentBytes + FIXED_BYTES;
  }

  /** Extents that it may have at most, whatever its disk has. */
  int mostExtents() {
    long pages = Integer.MAX_VALUE - 1L;
    return (int)
        Math.min(DirectoryMeta.MAX_EXTENTS, pages * SsdStore.PAGE_BYTES / meta.extentBytes);
  }

  /** Bytes that its data files have. Not while {@link #trim} runs. */
  long heldBytes() throws IOException {
    long bytes = 0;
    for (DirectFile data : dataFiles) {
      bytes += data.size();
    }
    return bytes;
  }

  /** Whether there are bytes beyond the end that the description gives. */
  boolean longerThanDescribed() throws IOException {
    int last = fileCount(meta, meta.extents) - 1;
    return Files.exists(dataPath(last + 1))
        || Files.size(dataPath(last)) > fileLength(meta, meta.extents, last);
  }

  /** Forgets what was attached: a new id makes every header on the disk a stranger's. */
  void format(String why, long newId) {
    if (!fresh) {
      dropped(why);
    }
    DirectoryMeta old = meta;
    meta = new DirectoryMeta(newId, old.extentBytes, old.fileBytes, old.extents);
    meta.sequence = old.sequence;
    fresh = true;
  }

  Path path() {
    return path;
  }

  DirectoryMeta meta() {
    return meta;
  }

  /** Whether nothing is attached. */
  boolean fresh() {
    return fresh;
  }

  /** Whether the sidecar before ended cleanly, whatever has become of the directory since. */
  boolean endedCleanly() {
    return endedCleanly;
  }

  int extentsPerFile() {
    return extentsPerFile(meta);
  }

  /** The description first, then the data: what the accesses' file numbers count. */
  List<DirectFile> all() {
    List<DirectFile> all = new ArrayList<>();
    all.add(metaFile);
    all.addAll(dataFiles);
    return all;
  }

  /** Number of the file that a byte of the directory lies in. */
  int fileOf(long offset) {
    return 1 + (int) (offset / (extentsPerFile(meta) * meta.extentBytes));
  }

  /** Where in that file. */
  long within(long offset) {
    return offset % (extentsPerFile(meta) * meta.extentBytes);
  }

  /** Makes everything written so far survive a power failure. */
  void sync() throws ErrnoException {
    for (DirectFile data : dataFiles) {
      data.sync();
    }
    metaFile.sync();
  }

  @Override
  public void close() throws IOException {
    dataFiles.forEach(DirectFile::close);
    metaFile.close();
    lock.close();
  }
}
