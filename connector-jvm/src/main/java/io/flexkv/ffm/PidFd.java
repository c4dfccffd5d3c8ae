package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.io.IOException;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;

/**
 * One particular process, for as long as this is open: unlike a pid, it is never recycled. Owned by
 * one thread.
 *
 * <p>A pid read earlier may belong to another process by the time {@link #open} runs; {@link
 * #open(int, long)} therefore compares the start time (in clock ticks since boot, field 22 of
 * {@code /proc/<pid>/stat}) <em>after</em> it holds the pidfd.
 */
public final class PidFd implements AutoCloseable {
  // The same numbers on every architecture (the table was unified at 424).
  private static final long SYS_PIDFD_SEND_SIGNAL = 424;
  private static final long SYS_PIDFD_OPEN = 434;
  private static final int START_TIME_FIELD = 22;

  private static final MethodHandle SYSCALL_OPEN =
      Libc.function(
          "syscall",
          FunctionDescriptor.of(JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT),
          Linker.Option.firstVariadicArg(1));
  private static final MethodHandle SYSCALL_SIGNAL =
      Libc.function(
          "syscall",
          FunctionDescriptor.of(JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, ADDRESS, JAVA_INT),
          Linker.Option.firstVariadicArg(1));

  private final int pid;
  private final PollSet poll = new PollSet(1);
  private int fd;

  private PidFd(int pid, int fd) {
    this.pid = pid;
    this.fd = fd;
  }

  /**
   * Opens whatever process has the pid now.
   *
   * @throws ErrnoException {@code ESRCH} if there is none
   */
  public static PidFd open(int pid) throws ErrnoException {
    long fd;
    try {
      fd = (long) SYSCALL_OPEN.invokeExact(Libc.state(), SYS_PIDFD_OPEN, pid, 0);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (fd < 0) {
      throw new ErrnoException("pidfd_open(" + pid + ")", Libc.errno());
    }
    return new PidFd(pid, (int) fd);
  }

  /**
   * Opens the process that had the pid when it started at {@code startTimeTicks}.
   *
   * @throws ErrnoException {@code ESRCH} if it has ended, even if its pid is in use again
   */
  public static PidFd open(int pid, long startTimeTicks) throws IOException {
    PidFd opened = open(pid);
    try {
      long seen = startTimeTicks(pid);
      if (seen != startTimeTicks) {
        throw new ErrnoException(
            "process %d: start time seen=%d wanted=%d, the pid was recycled"
                .formatted(pid, seen, startTimeTicks),
            Errno.ESRCH);
      }
      return opened;
    } catch (IOException | RuntimeException e) {
      opened.close();
      throw e;
    }
  }

  /**
   * When a process started, in clock ticks since boot.
   *
   * @throws ErrnoException {@code ESRCH} if there is no such process
   */
  public static long startTimeTicks(int pid) throws IOException {
    String stat;
    try {
      stat = Files.readString(Path.of("/proc", Integer.toString(pid), "stat"));
    } catch (NoSuchFileException e) {
      throw new ErrnoException("read /proc/" + pid + "/stat", Errno.ESRCH);
    }
    // The second field is the name in brackets and may hold blanks and brackets itself.
    String[] fromState = stat.substring(stat.lastIndexOf(')') + 2).split(" ", -1);
    return Long.parseLong(fromState[START_TIME_FIELD - 3]);
  }

  /** The descriptor, readable once the process has ended; -1 once closed. */
  public int fd() {
    return fd;
  }

  /** The number it had when it was opened. */
  public int pid() {
    return pid;
  }

  /** Whether the process has not ended yet (a zombie has). */
  public boolean alive() throws ErrnoException {
    poll.clear();
    poll.add(fd, PollSet.IN);
    return poll.poll(0) == 0;
  }

  /**
   * Sends a signal to exactly this process.
   *
   * @throws ErrnoException {@code ESRCH} if it has ended, {@code EPERM} if it is not ours
   */
  public void signal(int signal) throws ErrnoException {
    long answer;
    try {
      answer =
          (long)
              SYSCALL_SIGNAL.invokeExact(
                  Libc.state(), SYS_PIDFD_SEND_SIGNAL, fd, signal, MemorySegment.NULL, 0);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException("pidfd_send_signal(" + pid + ", " + signal + ")", Libc.errno());
    }
  }

  @Override
  public void close() {
    Linux.close(fd);
    fd = -1;
  }
}
