package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;

/**
 * Another process's memory: {@code process_vm_readv} and {@code process_vm_writev} over two arrays
 * of {@code struct iovec} {0 void* base | 8 u64 length}. Owned by one thread.
 *
 * <p>The kernel needs the same uid and a dumpable target, or the right to trace it (with Yama's
 * {@code ptrace_scope} 1 the target allows it by {@code PR_SET_PTRACER}).
 */
public final class ProcessVm {
  /** The most fragments the kernel takes in one call on either side ({@code IOV_MAX}). */
  public static final int MAX_FRAGMENTS = 1024;

  private static final FunctionDescriptor TYPE =
      FunctionDescriptor.of(JAVA_LONG, JAVA_INT, ADDRESS, JAVA_LONG, ADDRESS, JAVA_LONG, JAVA_LONG);
  private static final MethodHandle READV = Libc.function("process_vm_readv", TYPE);
  private static final MethodHandle WRITEV = Libc.function("process_vm_writev", TYPE);

  private final MemorySegment local = Arena.ofAuto().allocate(16L * MAX_FRAGMENTS, 8);
  private final MemorySegment remote = Arena.ofAuto().allocate(16L * MAX_FRAGMENTS, 8);
  private int count;

  /** Forgets all fragments. */
  public void clear() {
    count = 0;
  }

  /** How many fragments are waiting. */
  public int count() {
    return count;
  }

  /** Adds one fragment; both sides have the same length. */
  public void add(long localAddress, long remoteAddress, long length) {
    if (count == MAX_FRAGMENTS) {
      throw new IllegalStateException("too many fragments: limit=" + MAX_FRAGMENTS);
    }
    long at = 16L * count++;
    local.set(JAVA_LONG, at, localAddress);
    local.set(JAVA_LONG, at + 8, length);
    remote.set(JAVA_LONG, at, remoteAddress);
    remote.set(JAVA_LONG, at + 8, length);
  }

  /**
   * Copies the fragments from the other process.
   *
   * @return bytes copied: fewer than asked if a later fragment is not accessible; whole and partial
   *     fragments in order
   * @throws ErrnoException nothing copied: {@code ESRCH} ended, {@code EPERM} not allowed, {@code
   *     EFAULT} the first address is not mapped
   */
  public long read(int pid) throws ErrnoException {
    return call(READV, "process_vm_readv", pid);
  }

  /** Copies the fragments into the other process; see {@link #read}. */
  public long write(int pid) throws ErrnoException {
    return call(WRITEV, "process_vm_writev", pid);
  }

  private long call(MethodHandle handle, String name, int pid) throws ErrnoException {
    long n;
    try {
      n =
          (long)
              handle.invokeExact(Libc.state(), pid, local, (long) count, remote, (long) count, 0L);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (n < 0) {
      throw new ErrnoException(
          "%s(pid=%d, fragments=%d, first remote=0x%x length=%d)"
              .formatted(name, pid, count, remote.get(JAVA_LONG, 0), remote.get(JAVA_LONG, 8)),
          Libc.errno());
    }
    return n;
  }
}
