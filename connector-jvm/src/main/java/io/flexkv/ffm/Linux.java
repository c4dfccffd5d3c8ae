package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;

/**
 * File descriptors, identity, sleeps: {@code close}, {@code read}, {@code write}, {@code getuid},
 * {@code prctl}.
 */
public final class Linux {
  private static final MethodHandle CLOSE =
      Libc.function("close", FunctionDescriptor.of(JAVA_INT, JAVA_INT));
  private static final MethodHandle READ =
      Libc.function("read", FunctionDescriptor.of(JAVA_LONG, JAVA_INT, ADDRESS, JAVA_LONG));
  private static final MethodHandle WRITE =
      Libc.function("write", FunctionDescriptor.of(JAVA_LONG, JAVA_INT, ADDRESS, JAVA_LONG));
  private static final MethodHandle GETUID =
      Libc.function("getuid", FunctionDescriptor.of(JAVA_INT));

  private static final MethodHandle PRCTL =
      Libc.function(
          "prctl",
          FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG),
          Linker.Option.firstVariadicArg(1));
  private static final int PR_SET_TIMERSLACK = 29;

  /** Answer of a non-blocking call that had nothing to do: nothing is an error, ask again later. */
  public static final int WOULD_BLOCK = -1;

  private Linux() {}

  /**
   * Closes a descriptor. A failure is not reported: Linux frees the number whatever close answers,
   * and to close it again could hit somebody else's file.
   */
  public static void close(int fd) {
    if (fd < 0) {
      return;
    }
    try {
      int ignored = (int) CLOSE.invokeExact(Libc.state(), fd);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /**
   * Reads once into native memory.
   *
   * @return bytes read, 0 at the end, {@link #WOULD_BLOCK} if a non-blocking descriptor is empty
   */
  public static long read(int fd, MemorySegment into) throws ErrnoException {
    while (true) {
      long n;
      try {
        n = (long) READ.invokeExact(Libc.state(), fd, into, into.byteSize());
      } catch (Throwable t) {
        throw Libc.unexpected(t);
      }
      if (n >= 0) {
        return n;
      }
      int errno = Libc.errno();
      if (errno == Errno.EAGAIN) {
        return WOULD_BLOCK;
      }
      if (errno != Errno.EINTR) {
        throw new ErrnoException("read(fd=" + fd + ", length=" + into.byteSize() + ")", errno);
      }
    }
  }

  /**
   * Writes once from native memory.
   *
   * @return bytes written (may be fewer than asked), {@link #WOULD_BLOCK} if there is no room
   */
  public static long write(int fd, MemorySegment from) throws ErrnoException {
    while (true) {
      long n;
      try {
        n = (long) WRITE.invokeExact(Libc.state(), fd, from, from.byteSize());
      } catch (Throwable t) {
        throw Libc.unexpected(t);
      }
      if (n >= 0) {
        return n;
      }
      int errno = Libc.errno();
      if (errno == Errno.EAGAIN) {
        return WOULD_BLOCK;
      }
      if (errno != Errno.EINTR) {
        throw new ErrnoException("write(fd=" + fd + ", length=" + from.byteSize() + ")", errno);
      }
    }
  }

  /**
   * Lets this thread sleep no longer than it asks: by default the kernel adds up to 50 µs ({@code
   * PR_SET_TIMERSLACK}). A kernel that refuses leaves the sleeps as they were.
   */
  public static void exactSleeps() {
    try {
      int ignored = (int) PRCTL.invokeExact(Libc.state(), PR_SET_TIMERSLACK, 1L, 0L, 0L, 0L);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** The real user id of this process. */
  public static int uid() {
    try {
      return (int) GETUID.invokeExact(Libc.state());
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }
}
