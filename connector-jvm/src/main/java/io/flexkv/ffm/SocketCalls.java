package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;
import static java.lang.foreign.ValueLayout.JAVA_SHORT;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;

/** The socket calls of the C library, each with its error text; no state. */
final class SocketCalls {
  private static final short AF_UNIX = 1;
  private static final int SOCK_STREAM_CLOEXEC_NONBLOCK = 1 | 0x80000 | 0x800;
  private static final int CLOEXEC_NONBLOCK = 0x80000 | 0x800;
  private static final int SOL_SOCKET = 1;
  private static final int SO_PEERCRED = 17;
  private static final int MSG_NOSIGNAL = 0x4000;
  private static final int MSG_CMSG_CLOEXEC = 0x40000000;
  private static final int SUN_PATH_BYTES = 108;
  private static final int OWNER_ONLY = 0600;

  private static final MethodHandle SOCKET =
      Libc.function("socket", FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_INT, JAVA_INT));
  private static final MethodHandle FCHMOD =
      Libc.function("fchmod", FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_INT));
  private static final MethodHandle BIND =
      Libc.function("bind", FunctionDescriptor.of(JAVA_INT, JAVA_INT, ADDRESS, JAVA_INT));
  private static final MethodHandle LISTEN =
      Libc.function("listen", FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_INT));
  private static final MethodHandle CONNECT =
      Libc.function("connect", FunctionDescriptor.of(JAVA_INT, JAVA_INT, ADDRESS, JAVA_INT));
  private static final MethodHandle ACCEPT4 =
      Libc.function(
          "accept4", FunctionDescriptor.of(JAVA_INT, JAVA_INT, ADDRESS, ADDRESS, JAVA_INT));
  private static final MethodHandle GETSOCKOPT =
      Libc.function(
          "getsockopt",
          FunctionDescriptor.of(JAVA_INT, JAVA_INT, JAVA_INT, JAVA_INT, ADDRESS, ADDRESS));
  private static final MethodHandle SENDMSG =
      Libc.function("sendmsg", FunctionDescriptor.of(JAVA_LONG, JAVA_INT, ADDRESS, JAVA_INT));
  private static final MethodHandle RECVMSG =
      Libc.function("recvmsg", FunctionDescriptor.of(JAVA_LONG, JAVA_INT, ADDRESS, JAVA_INT));

  private SocketCalls() {}

  static int socket() throws ErrnoException {
    int fd;
    try {
      fd = (int) SOCKET.invokeExact(Libc.state(), (int) AF_UNIX, SOCK_STREAM_CLOEXEC_NONBLOCK, 0);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (fd < 0) {
      throw new ErrnoException("socket(AF_UNIX, STREAM)", Libc.errno());
    }
    return fd;
  }

  /** {@code struct sockaddr_un}: 0 u16 family | 2 path, zero-terminated, 108 bytes. */
  private static MemorySegment address(Path path, Arena arena) {
    byte[] bytes = path.toString().getBytes(StandardCharsets.UTF_8);
    if (bytes.length >= SUN_PATH_BYTES) {
      throw new IllegalArgumentException(
          "socket path has %d bytes, at most %d fit: %s; choose a shorter one"
              .formatted(bytes.length, SUN_PATH_BYTES - 1, path));
    }
    MemorySegment address = arena.allocate(2L + bytes.length + 1, 2);
    address.set(JAVA_SHORT, 0, AF_UNIX);
    MemorySegment.copy(bytes, 0, address, JAVA_BYTE, 2, bytes.length);
    return address;
  }

  static void bind(int fd, Path path) throws ErrnoException {
    int answer;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment address = address(path, arena);
      answer = (int) FCHMOD.invokeExact(Libc.state(), fd, OWNER_ONLY);
      if (answer < 0) {
        throw new ErrnoException("fchmod(socket, 0600)", Libc.errno());
      }
      answer = (int) BIND.invokeExact(Libc.state(), fd, address, (int) address.byteSize());
    } catch (ErrnoException e) {
      throw e;
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException("bind(" + path + ")", Libc.errno());
    }
  }

  static void listen(int fd, int backlog) throws ErrnoException {
    int answer;
    try {
      answer = (int) LISTEN.invokeExact(Libc.state(), fd, backlog);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException("listen(fd=" + fd + ", " + backlog + ")", Libc.errno());
    }
  }

  static void connect(int fd, Path path) throws ErrnoException {
    int answer;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment address = address(path, arena);
      answer = (int) CONNECT.invokeExact(Libc.state(), fd, address, (int) address.byteSize());
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException("connect(" + path + ")", Libc.errno());
    }
  }

  /** The accepted descriptor, or {@link Linux#WOULD_BLOCK} if nobody waits (or has gone again). */
  static int accept(int fd) throws ErrnoException {
    int accepted;
    try {
      accepted =
          (int)
              ACCEPT4.invokeExact(
                  Libc.state(), fd, MemorySegment.NULL, MemorySegment.NULL, CLOEXEC_NONBLOCK);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (accepted >= 0) {
      return accepted;
    }
    int errno = Libc.errno();
    if (errno == Errno.EAGAIN || errno == Errno.EINTR || errno == Errno.ECONNABORTED) {
      return Linux.WOULD_BLOCK;
    }
    throw new ErrnoException("accept4(fd=" + fd + ")", errno);
  }

  /** {@code struct ucred}: 0 i32 pid | 4 u32 uid | 8 u32 gid. */
  static UnixSocket.Credentials peerCredentials(int fd) throws ErrnoException {
    MemorySegment scratch = Libc.scratch();
    MemorySegment length = scratch.asSlice(16, 4);
    length.set(JAVA_INT, 0, 12);
    int answer;
    try {
      answer =
          (int) GETSOCKOPT.invokeExact(Libc.state(), fd, SOL_SOCKET, SO_PEERCRED, scratch, length);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer < 0) {
      throw new ErrnoException("getsockopt(fd=" + fd + ", SO_PEERCRED)", Libc.errno());
    }
    return new UnixSocket.Credentials(
        scratch.get(JAVA_INT, 0), scratch.get(JAVA_INT, 4), scratch.get(JAVA_INT, 8));
  }

  static long sendmsg(int fd, MemorySegment header) throws ErrnoException {
    return transfer(SENDMSG, "sendmsg", fd, header, MSG_NOSIGNAL);
  }

  static long recvmsg(int fd, MemorySegment header) throws ErrnoException {
    return transfer(RECVMSG, "recvmsg", fd, header, MSG_CMSG_CLOEXEC);
  }

  private static long transfer(
      MethodHandle call, String name, int fd, MemorySegment header, int flags)
      throws ErrnoException {
    while (true) {
      long n;
      try {
        n = (long) call.invokeExact(Libc.state(), fd, header, flags);
      } catch (Throwable t) {
        throw Libc.unexpected(t);
      }
      if (n >= 0) {
        return n;
      }
      int errno = Libc.errno();
      if (errno == Errno.EAGAIN) {
        return Linux.WOULD_BLOCK;
      }
      if (errno != Errno.EINTR) {
        throw new ErrnoException(name + "(fd=" + fd + ")", errno);
      }
    }
  }
}
