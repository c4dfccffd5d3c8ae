package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;
import static java.lang.foreign.ValueLayout.JAVA_SHORT;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.VarHandle;
import java.util.List;

/**
 * An io_uring, by its three system calls and two shared rings (kernel 5.6 or newer; the layout is
 * that of {@code linux/io_uring.h}).
 *
 * <pre>
 * submission entry, 64 bytes          completion, 16 bytes
 *  0 u8  opcode    8 u64 offset        0 u64 user data
 *  1 u8  flags    16 u64 address       8 s32 result (bytes, or minus the error number)
 *  4 s32 fd       24 u32 length       12 u32 flags
 *                 28 u32 poll mask
 *                 32 u64 user data
 *                 40 u16 buffer index
 * </pre>
 *
 * <p>One thread uses a ring, from {@link #open} to {@link #close}. The kernel reads the submission
 * tail and writes the completion tail; both are accessed with release and acquire. A ring has as
 * many completions as twice its entries, and no more than its entries are ever in flight here, so
 * completions are never lost.
 */
public final class IoUring implements AutoCloseable {
  private static final int SETUP = 425;
  private static final int ENTER = 426;
  private static final int REGISTER = 427;
  private static final int REGISTER_BUFFERS = 0;
  private static final int UNREGISTER_BUFFERS = 1;
  private static final int REGISTER_FILES = 2;
  private static final int ENTER_GETEVENTS = 1;
  private static final int FEATURE_SINGLE_MMAP = 1;
  private static final int FEATURE_NODROP = 2;
  private static final long OFFSET_RINGS = 0;
  private static final long OFFSET_ENTRIES = 0x10000000L;
  private static final byte OP_READ_FIXED = 4;
  private static final byte OP_WRITE_FIXED = 5;
  private static final byte OP_POLL_ADD = 6;
  private static final byte OP_READ = 22;
  private static final byte OP_WRITE = 23;
  private static final byte FLAG_FIXED_FILE = 1;
  private static final int POLLIN = 1;
  private static final int ENTRY_BYTES = 64;
  private static final int PARAMS_BYTES = 120;
  private static final int SQ_OFFSETS = 40;
  private static final int CQ_OFFSETS = 80;

  /** Buffer index of memory that is not registered. */
  public static final int NO_BUFFER = -1;

  private static final MethodHandle SYSCALL_SETUP =
      Libc.function(
          "syscall",
          FunctionDescriptor.of(JAVA_LONG, JAVA_LONG, JAVA_INT, ADDRESS),
          Linker.Option.firstVariadicArg(1));
  private static final MethodHandle SYSCALL_ENTER =
      Libc.function(
          "syscall",
          FunctionDescriptor.of(
              JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG),
          Linker.Option.firstVariadicArg(1));
  private static final MethodHandle SYSCALL_REGISTER =
      Libc.function(
          "syscall",
          FunctionDescriptor.of(JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, ADDRESS, JAVA_INT),
          Linker.Option.firstVariadicArg(1));
  private static final VarHandle INT = JAVA_INT.varHandle();

  private final int fd;
  private final Arena arena;
  private final MemorySegment rings;
  private final MemorySegment entries;
  private final int entryCount;
  private final int sqHead;
  private final int sqTail;
  private final int sqMask;
  private final int sqArray;
  private final int cqHead;
  private final int cqTail;
  private final int cqMask;
  private final int cqEntries;
  private volatile int fixedFiles;
  private int tail;
  private int unsubmitted;

  private IoUring(int fd, MemorySegment params, Arena arena) throws ErrnoException {
    this.fd = fd;
    this.arena = arena;
    int features = params.get(JAVA_INT, 20);
    int wanted = FEATURE_SINGLE_MMAP | FEATURE_NODROP;
    if ((features & wanted) != wanted) {
      throw new ErrnoException(
          "io_uring: features=0x%x, wanted 0x%x".formatted(features, wanted), Errno.ENOSYS);
    }
    entryCount = params.get(JAVA_INT, 0);
    int completions = params.get(JAVA_INT, 4);
    sqArray = params.get(JAVA_INT, SQ_OFFSETS + 24);
    cqEntries = params.get(JAVA_INT, CQ_OFFSETS + 20);
    long bytes = Math.max(sqArray + 4L * entryCount, cqEntries + 16L * completions);
    rings = SharedMemory.map(fd, OFFSET_RINGS, bytes, arena);
    entries = SharedMemory.map(fd, OFFSET_ENTRIES, (long) ENTRY_BYTES * entryCount, arena);
    sqHead = params.get(JAVA_INT, SQ_OFFSETS);
    sqTail = params.get(JAVA_INT, SQ_OFFSETS + 4);
    sqMask = rings.get(JAVA_INT, params.get(JAVA_INT, SQ_OFFSETS + 8));
    cqHead = params.get(JAVA_INT, CQ_OFFSETS);
    cqTail = params.get(JAVA_INT, CQ_OFFSETS + 4);
    cqMask = rings.get(JAVA_INT, params.get(JAVA_INT, CQ_OFFSETS + 8));
    tail = rings.get(JAVA_INT, sqTail);
  }

  /**
   * A new ring.
   *
   * @param entries accesses that may be in flight, 1 to 4096; rounded up to a power of two
   * @param flags {@code IORING_SETUP_*} bits, 0 for none
   * @throws ErrnoException {@code EPERM} where a container's seccomp filter or {@code
   *     kernel.io_uring_disabled} forbids it, {@code ENOSYS} from a kernel that is too old
   */
  public static IoUring open(int entries, int flags) throws ErrnoException {
    Arena arena = Arena.ofShared();
    int fd = -1;
    try {
      MemorySegment params = arena.allocate(PARAMS_BYTES, 8);
      params.set(JAVA_INT, 8, flags);
      fd = setup(entries, params);
      return new IoUring(fd, params, arena);
    } catch (ErrnoException | RuntimeException e) {
      arena.close();
      Linux.close(fd);
      throw e;
    }
  }

  private static int setup(int entries, MemorySegment params) throws ErrnoException {
    long fd;
    try {
      fd = (long) SYSCALL_SETUP.invokeExact(Libc.state(), (long) SETUP, entries, params);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (fd < 0) {
      throw new ErrnoException("io_uring_setup(entries=" + entries + ")", Libc.errno());
    }
    return (int) fd;
  }

  /** Accesses that may be in flight. */
  public int entries() {
    return entryCount;
  }

  /**
   * Registers files: from now on accesses name a file by its index here.
   *
   * @throws ErrnoException if the kernel refuses; nothing has changed then
   */
  public void registerFiles(List<DirectFile> files) throws ErrnoException {
    try (Arena local = Arena.ofConfined()) {
      MemorySegment fds = local.allocate(JAVA_INT, files.size());
      for (int i = 0; i < files.size(); i++) {
        fds.setAtIndex(JAVA_INT, i, files.get(i).fd());
      }
      register(REGISTER_FILES, fds, files.size());
    }
    fixedFiles = files.size();
  }

  /**
   * Only the first so many of the registered files are used as such from now on: the kernel keeps
   * the others open, whatever becomes of their names. Any thread.
   */
  public void useRegisteredFiles(int atMost) {
    fixedFiles = Math.min(fixedFiles, atMost);
  }

  /**
   * Registers memory: accesses within one of the ranges may name it by its index and save the
   * kernel the look-up of every page.
   *
   * @param ranges at most 1 GiB each
   * @throws ErrnoException {@code ENOMEM} where the limit of locked memory ({@code ulimit -l}) does
   *     not allow it; nothing has changed then
   */
  public void registerBuffers(List<MemorySegment> ranges) throws ErrnoException {
    try (Arena local = Arena.ofConfined()) {
      MemorySegment vectors = local.allocate(16L * ranges.size(), 8);
      for (int i = 0; i < ranges.size(); i++) {
        vectors.set(JAVA_LONG, 16L * i, ranges.get(i).address());
        vectors.set(JAVA_LONG, 16L * i + 8, ranges.get(i).byteSize());
      }
      register(REGISTER_BUFFERS, vectors, ranges.size());
    }
  }

  /**
   * Forgets the registered ranges: the kernel lets go of their pages, as soon as accesses that are
   * under way and named one have ended; it may wait for those here.
   */
  public void unregisterBuffers() throws ErrnoException {
    while (true) {
      try {
        register(UNREGISTER_BUFFERS, MemorySegment.NULL, 0);
        return;
      } catch (ErrnoException e) {
        if (e.errno() != Errno.EINTR) {
          throw e;
        }
      }
    }
  }

  private void register(int what, MemorySegment argument, int count) throws ErrnoException {
    long answer;
    try {
      answer =
          (long)
              SYSCALL_REGISTER.invokeExact(
                  Libc.state(), (long) REGISTER, fd, what, argument, count);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException(
          "io_uring_register(" + what + ", count=" + count + ")", Libc.errno());
    }
  }

  /**
   * Prepares a read or write; {@link #enter} hands it over. The caller keeps count of what is in
   * flight: at most {@link #entries}.
   *
   * @param fileIndex index among the registered files
   * @param buffer index of the registered range that holds the memory, or {@link #NO_BUFFER}
   * @param userData comes back with the completion
   */
  public void prepare(
      boolean write,
      int fileIndex,
      DirectFile file,
      long offset,
      long address,
      int length,
      int buffer,
      long userData) {
    byte opcode =
        buffer == NO_BUFFER
            ? (write ? OP_WRITE : OP_READ)
            : (write ? OP_WRITE_FIXED : OP_READ_FIXED);
    MemorySegment entry = nextEntry(opcode, userData);
    boolean fixed = fileIndex < fixedFiles;
    if (fixed) {
      entry.set(JAVA_BYTE, 1, FLAG_FIXED_FILE);
    }
    entry.set(JAVA_INT, 4, fixed ? fileIndex : file.fd());
    entry.set(JAVA_LONG, 8, offset);
    entry.set(JAVA_LONG, 16, address);
    entry.set(JAVA_INT, 24, length);
    entry.set(JAVA_SHORT, 40, (short) Math.max(buffer, 0));
    publish();
  }

  /** Prepares a one-shot poll: its completion says that the descriptor can be read. */
  public void preparePoll(int polled, long userData) {
    MemorySegment entry = nextEntry(OP_POLL_ADD, userData);
    entry.set(JAVA_INT, 4, polled);
    entry.set(JAVA_INT, 28, POLLIN);
    publish();
  }

  private MemorySegment nextEntry(byte opcode, long userData) {
    int head = (int) INT.getAcquire(rings, (long) sqHead);
    if (tail - head >= entryCount) {
      throw new IllegalStateException("ring is full: entries=" + entryCount);
    }
    MemorySegment entry = entries.asSlice((long) (tail & sqMask) * ENTRY_BYTES, ENTRY_BYTES);
    entry.fill((byte) 0);
    entry.set(JAVA_BYTE, 0, opcode);
    entry.set(JAVA_LONG, 32, userData);
    return entry;
  }

  private void publish() {
    int index = tail & sqMask;
    rings.set(JAVA_INT, sqArray + 4L * index, index);
    tail++;
    unsubmitted++;
    INT.setRelease(rings, (long) sqTail, tail);
  }

  /**
   * Hands over what is prepared and waits for completions.
   *
   * @param atLeast completions to wait for, 0 = none
   * @throws ErrnoException only for what cannot be tried again
   */
  public void enter(int atLeast) throws ErrnoException {
    long answer;
    int flags = atLeast > 0 ? ENTER_GETEVENTS : 0;
    try {
      answer =
          (long)
              SYSCALL_ENTER.invokeExact(
                  Libc.state(), (long) ENTER, fd, unsubmitted, atLeast, flags, 0L, 0L);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer >= 0) {
      unsubmitted -= (int) answer;
      return;
    }
    int errno = Libc.errno();
    // Interrupted, or short of memory, or completions must be taken first: the caller comes again.
    if (errno != Errno.EINTR && errno != Errno.EAGAIN && errno != Errno.EBUSY) {
      throw new ErrnoException("io_uring_enter(" + unsubmitted + ", " + atLeast + ")", errno);
    }
  }

  /** Takes completions, if there are any; returns how many. */
  public int reap(Completion each) {
    int head = rings.get(JAVA_INT, cqHead);
    int end = (int) INT.getAcquire(rings, (long) cqTail);
    int count = end - head;
    for (; head != end; head++) {
      long at = cqEntries + 16L * (head & cqMask);
      each.completed(rings.get(JAVA_LONG, at), rings.get(JAVA_INT, at + 8));
    }
    INT.setRelease(rings, (long) cqHead, head);
    return count;
  }

  /** Told of each completion. */
  @FunctionalInterface
  public interface Completion {
    /**
     * An access has ended.
     *
     * @param userData of the prepared access
     * @param result bytes, or minus the error number
     */
    void completed(long userData, int result);
  }

  /** Ends the ring. Accesses in flight go on in the kernel: wait for them first. */
  @Override
  public void close() {
    arena.close();
    Linux.close(fd);
  }
}
