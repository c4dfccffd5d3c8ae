package io.flexkv.ffm;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * A non-blocking {@code AF_UNIX} stream socket that carries file descriptors ({@code SCM_RIGHTS})
 * and knows who is at the other end ({@code SO_PEERCRED}). Owned by one thread.
 *
 * <p>The socket file is born with mode 0600: {@code fchmod} of the socket before {@code bind}
 * decides the file's mode, so there is no moment at which a stranger could connect, and the
 * process's umask is not touched.
 */
public final class UnixSocket implements AutoCloseable {
  /** Descriptors that one message may carry; more are refused and closed. */
  public static final int MAX_FDS = 16;

  private int fd;

  private UnixSocket(int fd) {
    this.fd = fd;
  }

  /** Who is at the other end, as the kernel knew it at connect time. */
  public record Credentials(int pid, int uid, int gid) {}

  /**
   * What one {@link #receive} brought.
   *
   * @param length bytes read, 0 = the other side closed, {@link Linux#WOULD_BLOCK} = nothing yet
   * @param fds descriptors that came along; the caller owns and closes them
   */
  public record Received(long length, List<Integer> fds) {}

  /**
   * Binds and listens.
   *
   * @param path the socket file; must not exist ({@code EADDRINUSE} otherwise) and fit 107 bytes
   */
  public static UnixSocket listen(Path path, int backlog) throws ErrnoException {
    UnixSocket socket = new UnixSocket(SocketCalls.socket());
    try {
      SocketCalls.bind(socket.fd, path);
      SocketCalls.listen(socket.fd, backlog);
      return socket;
    } catch (ErrnoException | RuntimeException e) {
      socket.close();
      throw e;
    }
  }

  /**
   * Connects. A Unix socket connects at once or not at all.
   *
   * @throws ErrnoException {@code ENOENT}, {@code ECONNREFUSED}: nobody there; {@code EAGAIN}: the
   *     listener's queue is full; {@code EACCES}: somebody else's
   */
  public static UnixSocket connect(Path path) throws ErrnoException {
    UnixSocket socket = new UnixSocket(SocketCalls.socket());
    try {
      SocketCalls.connect(socket.fd, path);
      return socket;
    } catch (ErrnoException | RuntimeException e) {
      socket.close();
      throw e;
    }
  }

  /** The next waiting connection, null if there is none. */
  public @Nullable UnixSocket accept() throws ErrnoException {
    int accepted = SocketCalls.accept(fd);
    return accepted == Linux.WOULD_BLOCK ? null : new UnixSocket(accepted);
  }

  /** The descriptor, for {@link PollSet}; -1 once closed. */
  public int fd() {
    return fd;
  }

  /** The peer's process, user and group ({@code SO_PEERCRED}). */
  public Credentials peerCredentials() throws ErrnoException {
    return SocketCalls.peerCredentials(fd);
  }

  /**
   * Sends bytes, with descriptors attached to the first of them.
   *
   * @param data heap or native; from its start
   * @param fds at most {@link #MAX_FDS}; needs at least one byte to travel with; stay the caller's
   * @return bytes taken by the kernel (send the rest <em>without</em> the descriptors), or {@link
   *     Linux#WOULD_BLOCK} with nothing sent
   */
  public long send(MemorySegment data, int... fds) throws ErrnoException {
    if (fds.length > MAX_FDS) {
      throw new IllegalArgumentException("fds=" + fds.length + ", at most " + MAX_FDS);
    }
    if (fds.length > 0 && data.byteSize() == 0) {
      throw new IllegalArgumentException("descriptors need at least one byte to travel with");
    }
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment payload = data.isNative() ? data : copyOf(data, arena);
      return SocketCalls.sendmsg(fd, MessageHeader.forSend(arena, payload, fds));
    }
  }

  private static MemorySegment copyOf(MemorySegment heap, Arena arena) {
    MemorySegment copy =
        arena.allocate(Math.max(1, heap.byteSize()), 8).asSlice(0, heap.byteSize());
    return copy.copyFrom(heap);
  }

  /**
   * Receives what is there, at most the size of {@code into}.
   *
   * @param into heap or native
   * @throws ErrnoException {@code EPROTO} if more descriptors came than {@link #MAX_FDS} (all that
   *     arrived are closed), {@code ECONNRESET} and the like
   */
  public Received receive(MemorySegment into) throws ErrnoException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment payload =
          into.isNative() ? into : arena.allocate(Math.max(1, into.byteSize()), 8);
      MemorySegment header =
          MessageHeader.forReceive(arena, payload.asSlice(0, into.byteSize()), MAX_FDS);
      long length = SocketCalls.recvmsg(fd, header);
      if (length == Linux.WOULD_BLOCK) {
        return new Received(length, List.of());
      }
      List<Integer> fds = new ArrayList<>();
      boolean complete = MessageHeader.takeDescriptors(header, fds);
      if (!complete) {
        fds.forEach(Linux::close);
        throw new ErrnoException(
            "recvmsg(fd=" + this.fd + "): more than " + MAX_FDS + " descriptors", Errno.EPROTO);
      }
      if (!into.isNative()) {
        MemorySegment.copy(
            payload, ValueLayout.JAVA_BYTE, 0, into, ValueLayout.JAVA_BYTE, 0, length);
      }
      return new Received(length, List.copyOf(fds));
    }
  }

  /** Closes; the other side reads the end. A socket file stays: whoever listened removes it. */
  @Override
  public void close() {
    Linux.close(fd);
    fd = -1;
  }
}
