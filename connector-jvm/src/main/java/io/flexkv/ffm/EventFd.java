package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;

/**
 * An {@code eventfd}: a counter that any thread or process raises and one poller drains. Used as
 * the wake-up of a thread that sleeps in {@link PollSet#poll}. Thread-safe; a signal after close
 * does nothing.
 */
public final class EventFd implements AutoCloseable {
  private static final int EFD_CLOEXEC = 0x80000;
  private static final int EFD_NONBLOCK = 0x800;
  private static final MethodHandle EVENTFD =
      Libc.function("eventfd", FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_INT));

  private int fd;

  private EventFd(int fd) {
    this.fd = fd;
  }

  /** A new non-blocking event with counter 0. */
  public static EventFd create() throws ErrnoException {
    int fd;
    try {
      fd = (int) EVENTFD.invokeExact(Libc.state(), 0, EFD_CLOEXEC | EFD_NONBLOCK);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (fd < 0) {
      throw new ErrnoException("eventfd(0, CLOEXEC|NONBLOCK)", Libc.errno());
    }
    return new EventFd(fd);
  }

  /** Takes ownership of an eventfd that came over a socket; it must be non-blocking. */
  public static EventFd ofReceived(int fd) {
    return new EventFd(fd);
  }

  /** The descriptor to poll or to send, -1 once closed. */
  public synchronized int fd() {
    return fd;
  }

  /** Raises the counter: wakes whoever polls it. A counter at its maximum is awake already. */
  public synchronized void signal() throws ErrnoException {
    if (fd < 0) {
      return;
    }
    MemorySegment one = Libc.scratch().asSlice(0, 8);
    one.set(JAVA_LONG, 0, 1L);
    Linux.write(fd, one);
  }

  /** Sets the counter to 0 and says whether anybody had signalled. */
  public synchronized boolean drain() throws ErrnoException {
    return fd >= 0 && Linux.read(fd, Libc.scratch().asSlice(0, 8)) == 8;
  }

  @Override
  public synchronized void close() {
    Linux.close(fd);
    fd = -1;
  }
}
