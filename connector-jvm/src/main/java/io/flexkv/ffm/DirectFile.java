package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.invoke.MethodHandle;
import java.nio.file.Path;

/**
 * A file opened with {@code O_DIRECT}: what is read and written goes past the page cache. Offsets,
 * lengths and addresses must be multiples of the device's block (4096 always does).
 *
 * <p>Thread-safe, but {@link #close} must come after the last access: the number of a closed
 * descriptor may soon be somebody else's.
 */
public final class DirectFile implements AutoCloseable {
  private static final boolean ARM = System.getProperty("os.arch", "").equals("aarch64");
  private static final int O_RDONLY = 0;
  private static final int O_RDWR = 2;
  private static final int O_CREAT = 0x40;
  private static final int O_CLOEXEC = 0x80000;
  // The two flags that differ between the architectures (asm-generic and arm64 fcntl.h).
  private static final int O_DIRECT = ARM ? 0x10000 : 0x4000;
  private static final int O_NOFOLLOW = ARM ? 0x8000 : 0x20000;
  private static final int OWNER_ONLY = 0600;
  private static final int SEEK_END = 2;

  private static final MethodHandle OPEN =
      Libc.function(
          "open",
          FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_INT, JAVA_INT),
          Linker.Option.firstVariadicArg(2));
  private static final FunctionDescriptor TRANSFER =
      FunctionDescriptor.of(JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_LONG, JAVA_LONG);
  private static final MethodHandle PREAD = Libc.function("pread", TRANSFER);
  private static final MethodHandle PWRITE = Libc.function("pwrite", TRANSFER);
  private static final MethodHandle FDATASYNC =
      Libc.function("fdatasync", FunctionDescriptor.of(JAVA_INT, JAVA_INT));
  private static final MethodHandle FALLOCATE =
      Libc.function(
          "fallocate", FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG));
  private static final MethodHandle FTRUNCATE =
      Libc.function("ftruncate", FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_LONG));
  private static final MethodHandle LSEEK =
      Libc.function("lseek", FunctionDescriptor.of(JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_INT));

  private final Path path;
  private final int fd;

  private DirectFile(Path path, int fd) {
    this.path = path;
    this.fd = fd;
  }

  /**
   * Opens for reading and writing; a missing file is made, for its owner only.
   *
   * @throws ErrnoException {@code EINVAL} from a file system that has no {@code O_DIRECT}
   */
  public static DirectFile openOrCreate(Path path) throws ErrnoException {
    return open(path, O_RDWR | O_CREAT);
  }

  /** Opens a file that is there, for reading. */
  public static DirectFile openToRead(Path path) throws ErrnoException {
    return open(path, O_RDONLY);
  }

  private static DirectFile open(Path path, int access) throws ErrnoException {
    int flags = access | O_DIRECT | O_NOFOLLOW | O_CLOEXEC;
    int fd;
    try (Arena arena = Arena.ofConfined()) {
      fd =
          (int)
              OPEN.invokeExact(
                  Libc.state(), arena.allocateFrom(path.toString()), flags, OWNER_ONLY);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (fd < 0) {
      throw new ErrnoException("open(" + path + ", O_DIRECT)", Libc.errno());
    }
    return new DirectFile(path, fd);
  }

  public Path path() {
    return path;
  }

  /** The descriptor, for {@link IoUring}. */
  public int fd() {
    return fd;
  }

  /**
   * Reads once.
   *
   * @return bytes read (may be fewer than asked; 0 at the end), or minus the error number
   */
  public long read(long offset, long address, long length) {
    try {
      long n = (long) PREAD.invokeExact(Libc.state(), fd, address, length, offset);
      return n >= 0 ? n : -Libc.errno();
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /**
   * Writes once.
   *
   * @return bytes written (may be fewer than asked), or minus the error number
   */
  public long write(long offset, long address, long length) {
    try {
      long n = (long) PWRITE.invokeExact(Libc.state(), fd, address, length, offset);
      return n >= 0 ? n : -Libc.errno();
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** Makes what was written survive a power failure. */
  public void sync() throws ErrnoException {
    int answer;
    try {
      answer = (int) FDATASYNC.invokeExact(Libc.state(), fd);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException("fdatasync(" + path + ")", Libc.errno());
    }
  }

  /** The file's length in bytes. */
  public long size() throws ErrnoException {
    long size;
    try {
      size = (long) LSEEK.invokeExact(Libc.state(), fd, 0L, SEEK_END);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (size < 0) {
      throw new ErrnoException("lseek(" + path + ", END)", Libc.errno());
    }
    return size;
  }

  /**
   * Gives the file its length and its room on the disk; what is there stays, and where it fails all
   * is as before.
   *
   * @return false where the file system cannot reserve room: the file is sparse then, and a write
   *     may find the disk full
   */
  public boolean reserve(long bytes) throws ErrnoException {
    long before = size();
    int answer;
    try {
      answer = (int) FALLOCATE.invokeExact(Libc.state(), fd, 0, 0L, bytes);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer == 0) {
      return true;
    }
    int errno = Libc.errno();
    if (errno != Errno.EOPNOTSUPP && errno != Errno.ENOSYS) {
      // Some file systems keep what they found before the disk was full, and it would stay full.
      truncate(before);
      throw new ErrnoException("fallocate(" + path + ", " + bytes + " bytes)", errno);
    }
    truncate(bytes);
    return false;
  }

  /** Cuts the file to this length, or makes it so long without room on the disk. */
  public void truncate(long bytes) throws ErrnoException {
    int answer;
    try {
      answer = (int) FTRUNCATE.invokeExact(Libc.state(), fd, bytes);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException("ftruncate(" + path + ", " + bytes + ")", Libc.errno());
    }
  }

  @Override
  public void close() {
    Linux.close(fd);
  }
}
