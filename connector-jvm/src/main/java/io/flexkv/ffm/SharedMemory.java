package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.util.concurrent.locks.Lock;
import java.util.concurrent.locks.ReentrantReadWriteLock;

/**
 * memfds and mappings: {@code memfd_create}, {@code ftruncate}, seals, {@code mmap}, {@code
 * madvise}; memory that no other process shares: {@link #reserve} and {@link #open}.
 *
 * <p>A mapping is a segment of an arena: closing the arena unmaps it, and the JDK refuses every
 * later access instead of crashing. A mapping of a file that somebody can shorten is a SIGBUS
 * waiting, therefore {@link #mapShared} accepts only memfds sealed against shrinking.
 */
public final class SharedMemory {
  /** No seal can be added any more. */
  public static final int SEAL_SEAL = 0x1;

  /** The file cannot become shorter. */
  public static final int SEAL_SHRINK = 0x2;

  /** The file cannot become longer. */
  public static final int SEAL_GROW = 0x4;

  private static final long POPULATE_STEP = 2L << 20;
  private static final int MFD_CLOEXEC = 0x1;
  private static final int MFD_ALLOW_SEALING = 0x2;
  private static final int MFD_HUGETLB = 0x4;
  private static final int MFD_HUGE_SHIFT = 26;
  private static final int F_ADD_SEALS = 1033;
  private static final int F_GET_SEALS = 1034;
  private static final int SEEK_END = 2;
  private static final int PROT_NONE = 0x0;
  private static final int PROT_READ_WRITE = 0x3;
  private static final int MAP_SHARED = 0x1;
  private static final int MAP_PRIVATE_ANONYMOUS_NORESERVE = 0x2 | 0x20 | 0x4000;
  private static final int MADV_DONTNEED = 4;
  private static final int MADV_DONTFORK = 10;
  private static final int MADV_HUGEPAGE = 14;
  private static final int MADV_DONTDUMP = 16;
  private static final int MADV_POPULATE_WRITE = 23;

  /** What {@link #reserve} aligns to: a huge page of x86-64. */
  private static final long HUGE_PAGE_BYTES = 2L << 20;

  private static final MethodHandle MEMFD_CREATE =
      Libc.function("memfd_create", FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_INT));
  private static final MethodHandle FTRUNCATE =
      Libc.function("ftruncate", FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_LONG));
  private static final MethodHandle FCNTL =
      Libc.function(
          "fcntl",
          FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_INT, JAVA_INT),
          Linker.Option.firstVariadicArg(2));
  private static final MethodHandle LSEEK =
      Libc.function("lseek", FunctionDescriptor.of(JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_INT));
  private static final MethodHandle MMAP =
      Libc.function(
          "mmap",
          FunctionDescriptor.of(
              JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_INT, JAVA_LONG));
  private static final MethodHandle MUNMAP =
      Libc.function("munmap", FunctionDescriptor.of(JAVA_INT, JAVA_LONG, JAVA_LONG));
  private static final MethodHandle MPROTECT =
      Libc.function("mprotect", FunctionDescriptor.of(JAVA_INT, JAVA_LONG, JAVA_LONG, JAVA_INT));
  private static final MethodHandle MADVISE =
      Libc.function("madvise", FunctionDescriptor.of(JAVA_INT, JAVA_LONG, JAVA_LONG, JAVA_INT));

  /** Shared while a thread gives memory its pages; a process has one, like the kernel's own. */
  private static final ReentrantReadWriteLock MAPPINGS = new ReentrantReadWriteLock();

  private SharedMemory() {}

  /**
   * A new memfd of {@code bytes}, zero-filled and without pages yet, sealed against shrinking and
   * growing.
   *
   * @param name shown in {@code /proc/<pid>/maps}, at most 249 bytes
   * @return the descriptor (close-on-exec); the caller closes it
   */
  public static int createMemfd(String name, long bytes) throws ErrnoException {
    return createMemfd(name, bytes, 0);
  }

  /**
   * The same in reserved huge pages (hugetlbfs). Whether enough are free shows at the mapping,
   * which takes them out of the reserve: {@code ENOMEM}.
   *
   * @param bytes a multiple of {@code pageBytes}
   * @param pageBytes a size of which the kernel has a reserve, 2 MiB or 1 GiB on x86-64
   * @throws ErrnoException {@code ENODEV}, {@code EINVAL} if the kernel has no pages of that size
   */
  public static int createHugeMemfd(String name, long bytes, long pageBytes) throws ErrnoException {
    int size = Long.numberOfTrailingZeros(pageBytes);
    return createMemfd(name, bytes, MFD_HUGETLB | size << MFD_HUGE_SHIFT);
  }

  private static int createMemfd(String name, long bytes, int pages) throws ErrnoException {
    int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | pages;
    int fd;
    try (Arena arena = Arena.ofConfined()) {
      fd = (int) MEMFD_CREATE.invokeExact(Libc.state(), arena.allocateFrom(name), flags);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (fd < 0) {
      throw new ErrnoException("memfd_create(" + name + ")", Libc.errno());
    }
    try {
      int answer;
      try {
        answer = (int) FTRUNCATE.invokeExact(Libc.state(), fd, bytes);
      } catch (Throwable t) {
        throw Libc.unexpected(t);
      }
      if (answer < 0) {
        throw new ErrnoException("ftruncate(" + name + ", " + bytes + ")", Libc.errno());
      }
      addSeals(fd, SEAL_SHRINK | SEAL_GROW | SEAL_SEAL);
      return fd;
    } catch (ErrnoException | RuntimeException e) {
      Linux.close(fd);
      throw e;
    }
  }

  private static int fcntl(int fd, int command, int argument) {
    try {
      return (int) FCNTL.invokeExact(Libc.state(), fd, command, argument);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** Adds seals to a memfd. */
  public static void addSeals(int fd, int seals) throws ErrnoException {
    if (fcntl(fd, F_ADD_SEALS, seals) < 0) {
      throw new ErrnoException("fcntl(fd=" + fd + ", F_ADD_SEALS, " + seals + ")", Libc.errno());
    }
  }

  /** The seals of a memfd; {@code EINVAL} for a file that cannot be sealed. */
  public static int seals(int fd) throws ErrnoException {
    int seals = fcntl(fd, F_GET_SEALS, 0);
    if (seals < 0) {
      throw new ErrnoException("fcntl(fd=" + fd + ", F_GET_SEALS)", Libc.errno());
    }
    return seals;
  }

  /** The length of the file in bytes (by {@code lseek}: moves the file offset to the end). */
  public static long size(int fd) throws ErrnoException {
    long size;
    try {
      size = (long) LSEEK.invokeExact(Libc.state(), fd, 0L, SEEK_END);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (size < 0) {
      throw new ErrnoException("lseek(fd=" + fd + ", END)", Libc.errno());
    }
    return size;
  }

  /**
   * Maps the first {@code length} bytes of a memfd, shared, for reading and writing.
   *
   * @param arena its close unmaps; the descriptor may be closed at once
   * @throws ErrnoException {@code EINVAL} if the file is shorter than {@code length}, or is not
   *     sealed against shrinking: a stranger could then kill this process by shortening it
   */
  public static MemorySegment mapShared(int fd, long length, Arena arena) throws ErrnoException {
    int seals = seals(fd);
    if ((seals & SEAL_SHRINK) == 0) {
      throw new ErrnoException(
          "mapShared(fd=" + fd + "): seals=" + seals + ", wanted F_SEAL_SHRINK (2)", Errno.EINVAL);
    }
    long size = size(fd);
    if (length <= 0 || length > size) {
      throw new ErrnoException(
          "mapShared(fd=" + fd + "): length=" + length + ", file has " + size, Errno.EINVAL);
    }
    return map(fd, 0, length, arena);
  }

  /** Maps a range of a file, shared, for reading and writing; no check of size or seals. */
  static MemorySegment map(int fd, long offset, long length, Arena arena) throws ErrnoException {
    long address;
    try {
      address =
          (long)
              MMAP.invokeExact(Libc.state(), 0L, length, PROT_READ_WRITE, MAP_SHARED, fd, offset);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (address == -1L) {
      throw new ErrnoException(
          "mmap(fd=" + fd + ", offset=" + offset + ", length=" + length + ")", Libc.errno());
    }
    return MemorySegment.ofAddress(address)
        .reinterpret(length, arena, mapped -> unmap(mapped.address(), length));
  }

  /**
   * Addresses for memory of this process alone, on a border of 2 MiB; what is used of them is
   * {@linkplain #open opened} first, and costs nothing before. It is in no core dump, and not in a
   * child that is forked: copy-on-write would take pages away from under a device that has them
   * pinned.
   *
   * @param huge whether to ask for transparent huge pages; a kernel that has none gives others
   * @param arena its close unmaps
   */
  public static MemorySegment reserve(long length, boolean huge, Arena arena)
      throws ErrnoException {
    return reserve(length, 0, huge, arena);
  }

  /**
   * The same, the beginning of which is {@linkplain #open open}.
   *
   * @param opened bytes that are
   * @throws ErrnoException {@code ENOMEM} where the system promises no more memory; no addresses
   *     are taken then
   */
  public static MemorySegment reserve(long length, long opened, boolean huge, Arena arena)
      throws ErrnoException {
    long whole = length + HUGE_PAGE_BYTES;
    long address;
    try {
      address =
          (long)
              MMAP.invokeExact(
                  Libc.state(), 0L, whole, PROT_NONE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0L);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (address == -1L) {
      throw new ErrnoException("mmap(anonymous, length=" + whole + ")", Libc.errno());
    }
    long start = (address + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    try {
      adviseReserved(address, whole, huge);
      if (opened != 0) {
        open(start, opened);
      }
    } catch (ErrnoException e) {
      unmap(address, whole);
      throw e;
    }
    return MemorySegment.ofAddress(start)
        .reinterpret(length, arena, mapped -> unmap(address, whole));
  }

  private static void adviseReserved(long address, long length, boolean huge)
      throws ErrnoException {
    advise(address, length, MADV_DONTFORK, "DONTFORK");
    advise(address, length, MADV_DONTDUMP, "DONTDUMP");
    if (huge) {
      try {
        advise(address, length, MADV_HUGEPAGE, "HUGEPAGE");
      } catch (ErrnoException e) {
        if (e.errno() != Errno.EINVAL) { // EINVAL: a kernel without them
          throw e;
        }
      }
    }
  }

  /**
   * Makes a page-aligned range of reserved addresses readable and writable. Pages come on first
   * use, filled with zeros.
   *
   * @throws ErrnoException {@code ENOMEM} where the system promises no more memory
   */
  public static void open(long address, long length) throws ErrnoException {
    protect(address, length, PROT_READ_WRITE, "READ|WRITE");
  }

  /**
   * Gives the pages of a range back to the system and closes it: who touches it then is stopped,
   * and does not read zeros. Nothing may have it pinned.
   */
  public static void giveBack(long address, long length) throws ErrnoException {
    protect(address, length, PROT_NONE, "NONE");
    advise(address, length, MADV_DONTNEED, "DONTNEED");
  }

  private static void protect(long address, long length, int access, String name)
      throws ErrnoException {
    int answer;
    try {
      answer = (int) MPROTECT.invokeExact(Libc.state(), address, length, access);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer != 0) {
      throw new ErrnoException(
          "mprotect(0x%x, %d, %s)".formatted(address, length, name), Libc.errno());
    }
  }

  private static void advise(long address, long length, int advice, String name)
      throws ErrnoException {
    int answer;
    try {
      answer = (int) MADVISE.invokeExact(Libc.state(), address, length, advice);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer != 0) {
      throw new ErrnoException(
          "madvise(0x%x, %d, %s)".formatted(address, length, name), Libc.errno());
    }
  }

  private static void unmap(long address, long length) {
    try {
      int ignored = (int) MUNMAP.invokeExact(Libc.state(), address, length);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /**
   * Gives a page-aligned range its pages now ({@code MADV_POPULATE_WRITE}, Linux 5.14), without
   * changing its contents: safe beside threads that use it.
   *
   * <p>One huge page a call: the kernel holds the lock of this process's mappings all through a
   * call, and whoever wants to map anything meanwhile waits for the longest of all threads' calls.
   * Before each it waits for whoever holds {@link #noPopulation}.
   *
   * @throws ErrnoException {@code EINVAL} from an older kernel, {@code ENOMEM} or {@code EFAULT}
   *     where memory has run out
   */
  public static void populate(long address, long length) throws ErrnoException {
    long end = address + length;
    for (long at = address; at < end; ) {
      long next = Math.min(end, (at / POPULATE_STEP + 1) * POPULATE_STEP);
      populateStep(at, next - at);
      at = next;
    }
  }

  /**
   * While a thread holds this, none is inside {@link #populate}. For calls that map or pin memory
   * with a lock of their own in hand (the CUDA driver's, that every copy wants): they should not
   * wait in the kernel for pages that others are given.
   */
  public static Lock noPopulation() {
    return MAPPINGS.writeLock();
  }

  private static void populateStep(long address, long length) throws ErrnoException {
    MAPPINGS.readLock().lock();
    try {
      populateUndisturbed(address, length);
    } finally {
      MAPPINGS.readLock().unlock();
    }
  }

  private static void populateUndisturbed(long address, long length) throws ErrnoException {
    while (true) {
      int answer;
      try {
        answer = (int) MADVISE.invokeExact(Libc.state(), address, length, MADV_POPULATE_WRITE);
      } catch (Throwable t) {
        throw Libc.unexpected(t);
      }
      if (answer == 0) {
        return;
      }
      int errno = Libc.errno();
      if (errno != Errno.EINTR && errno != Errno.EAGAIN) {
        throw new ErrnoException(
            "madvise(0x%x, %d, POPULATE_WRITE)".formatted(address, length), errno);
      }
    }
  }
}
