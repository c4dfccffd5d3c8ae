package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;
import static java.lang.foreign.ValueLayout.JAVA_SHORT;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;

/**
 * A fixed array of {@code struct pollfd} for {@code poll(2)}: {@code int fd; short events; short
 * revents}. Owned by one thread. Fill it anew before each poll ({@link #clear}, {@link #add}): with
 * tens of descriptors that costs less than keeping it in step.
 */
public final class PollSet {
  /** There is something to read (or to accept; a pidfd: the process has ended). */
  public static final short IN = 0x001;

  /** There is room to write. */
  public static final short OUT = 0x004;

  /** Error; always reported, never asked for. */
  public static final short ERR = 0x008;

  /** The other side hung up; always reported, never asked for. */
  public static final short HUP = 0x010;

  private static final int BYTES = 8;
  private static final MethodHandle POLL =
      Libc.function("poll", FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_LONG, JAVA_INT));

  private final MemorySegment fds;
  private final int capacity;
  private int size;

  /** Room for {@code capacity} descriptors. */
  public PollSet(int capacity) {
    this.capacity = capacity;
    this.fds = Arena.ofAuto().allocate((long) capacity * BYTES, 8);
  }

  /** Forgets every descriptor. */
  public void clear() {
    size = 0;
  }

  /**
   * Adds a descriptor.
   *
   * @return its index for {@link #ready}
   * @throws IllegalStateException when the set is full
   */
  public int add(int fd, short events) {
    if (size == capacity) {
      throw new IllegalStateException("poll set is full: capacity=" + capacity + " fd=" + fd);
    }
    long at = (long) size * BYTES;
    fds.set(JAVA_INT, at, fd);
    fds.set(JAVA_SHORT, at + 4, events);
    fds.set(JAVA_SHORT, at + 6, (short) 0);
    return size++;
  }

  /**
   * Waits for any of them.
   *
   * @param timeoutMillis 0 = look only, -1 = for ever
   * @return how many are ready; 0 at the time limit or when a signal interrupted
   */
  public int poll(int timeoutMillis) throws ErrnoException {
    int n;
    try {
      n = (int) POLL.invokeExact(Libc.state(), fds, (long) size, timeoutMillis);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (n >= 0) {
      return n;
    }
    int errno = Libc.errno();
    if (errno == Errno.EINTR) {
      for (int i = 0; i < size; i++) {
        fds.set(JAVA_SHORT, (long) i * BYTES + 6, (short) 0);
      }
      return 0;
    }
    throw new ErrnoException("poll(count=" + size + ", timeout=" + timeoutMillis + " ms)", errno);
  }

  /** What came of the last poll for the descriptor at {@code index}: a set of IN, OUT, ERR, HUP. */
  public short ready(int index) {
    if (index < 0 || index >= size) {
      throw new IndexOutOfBoundsException("index=" + index + " size=" + size);
    }
    return fds.get(JAVA_SHORT, (long) index * BYTES + 6);
  }
}
