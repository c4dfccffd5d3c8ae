package io.flexkv.ffm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class UnixSocketTest {
  @TempDir Path folder;

  private static MemorySegment text(String text) {
    return MemorySegment.ofArray(text.getBytes(StandardCharsets.UTF_8));
  }

  private static void await(int fd, short events) throws IOException {
    PollSet set = new PollSet(1);
    set.add(fd, events);
    assertThat(set.poll(5_000)).as("descriptor %d ready within 5 s", fd).isEqualTo(1);
  }

  private UnixSocket acceptOn(UnixSocket listener) throws IOException {
    await(listener.fd(), PollSet.IN);
    return Objects.requireNonNull(listener.accept());
  }

  @Test
  void listen_newPath_fileBelongsToOwnerOnly() throws IOException {
    Path path = folder.resolve("server");
    try (UnixSocket listener = UnixSocket.listen(path, 4)) {
      assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(path)))
          .isEqualTo("rw-------");
      assertThat(listener.accept()).as("nobody waits").isNull();
    }
  }

  @Test
  void listen_pathInUse_namesThePathAndTheReason() throws IOException {
    Path path = folder.resolve("server");
    try (UnixSocket listener = UnixSocket.listen(path, 4)) {
      assertThat(listener.fd()).isNotNegative();
      assertThatThrownBy(() -> UnixSocket.listen(path, 4))
          .isInstanceOf(ErrnoException.class)
          .hasMessageContaining(path.toString())
          .hasMessageContaining("EADDRINUSE");
    }
  }

  @Test
  void listen_pathTooLong_refusedWithBothNumbers() {
    Path path = folder.resolve("x".repeat(120));
    assertThatThrownBy(() -> UnixSocket.listen(path, 4))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("at most 107");
  }

  @Test
  void connect_nobodyThere_saysSo() {
    assertThatThrownBy(() -> UnixSocket.connect(folder.resolve("nobody")))
        .isInstanceOf(ErrnoException.class)
        .hasMessageContaining("ENOENT");
  }

  @Test
  void connect_listenerGoneButFileLeft_isRefused() throws IOException {
    Path path = folder.resolve("stale");
    UnixSocket.listen(path, 1).close();
    assertThatThrownBy(() -> UnixSocket.connect(path))
        .isInstanceOfSatisfying(
            ErrnoException.class, e -> assertThat(e.errno()).isEqualTo(Errno.ECONNREFUSED));
  }

  @Test
  void send_withMemfd_otherSideSharesThePage() throws IOException {
    Path path = folder.resolve("server");
    int memfd = SharedMemory.createMemfd("flexkv-test", 8192);
    try (UnixSocket listener = UnixSocket.listen(path, 4);
        UnixSocket client = UnixSocket.connect(path);
        UnixSocket server = acceptOn(listener);
        Arena arena = Arena.ofConfined()) {
      assertThat(server.peerCredentials())
          .isEqualTo(
              new UnixSocket.Credentials(
                  (int) ProcessHandle.current().pid(), Linux.uid(), gidOf(path)));

      assertThat(client.send(text("hello"), memfd)).isEqualTo(5);
      await(server.fd(), PollSet.IN);
      byte[] buffer = new byte[64];
      UnixSocket.Received received = server.receive(MemorySegment.ofArray(buffer));
      assertThat(received.length()).isEqualTo(5);
      assertThat(new String(buffer, 0, 5, StandardCharsets.UTF_8)).isEqualTo("hello");
      assertThat(received.fds()).hasSize(1);

      MemorySegment ours = SharedMemory.mapShared(memfd, 8192, arena);
      MemorySegment theirs = SharedMemory.mapShared(received.fds().getFirst(), 8192, arena);
      assertThat(theirs.address()).isNotEqualTo(ours.address());
      ours.set(ValueLayout.JAVA_LONG, 4096, 0x1234_5678_9abcL);
      assertThat(theirs.get(ValueLayout.JAVA_LONG, 4096)).isEqualTo(0x1234_5678_9abcL);
      Linux.close(received.fds().getFirst());
    } finally {
      Linux.close(memfd);
    }
  }

  private static int gidOf(Path path) throws IOException {
    return (int) Files.getAttribute(path, "unix:gid");
  }

  @Test
  @SuppressWarnings("try") // the client closes first: that is the case
  void receive_nothingThere_wouldBlock_thenEndAfterClose() throws IOException {
    Path path = folder.resolve("server");
    try (UnixSocket listener = UnixSocket.listen(path, 4);
        UnixSocket client = UnixSocket.connect(path);
        UnixSocket server = acceptOn(listener)) {
      MemorySegment buffer = MemorySegment.ofArray(new byte[16]);
      assertThat(server.receive(buffer).length()).isEqualTo(Linux.WOULD_BLOCK);
      client.close();
      await(server.fd(), PollSet.IN);
      assertThat(server.receive(buffer).length()).isZero();
    }
  }

  @Test
  void send_otherSideGone_failsWithoutKillingTheProcess() throws IOException {
    Path path = folder.resolve("server");
    try (UnixSocket listener = UnixSocket.listen(path, 4);
        UnixSocket client = UnixSocket.connect(path)) {
      acceptOn(listener).close();
      assertThatThrownBy(() -> client.send(text("x")))
          .isInstanceOfSatisfying(
              ErrnoException.class, e -> assertThat(e.errno()).isIn(Errno.EPIPE, Errno.ECONNRESET));
    }
  }

  @Test
  void send_fullBuffer_wouldBlockAndLosesNothing() throws IOException {
    Path path = folder.resolve("server");
    try (UnixSocket listener = UnixSocket.listen(path, 4);
        UnixSocket client = UnixSocket.connect(path);
        UnixSocket server = acceptOn(listener)) {
      MemorySegment chunk = MemorySegment.ofArray(new byte[65536]);
      long sent = 0;
      for (long n; (n = client.send(chunk)) != Linux.WOULD_BLOCK; ) {
        sent += n;
      }
      long got = 0;
      for (long n; (n = server.receive(chunk).length()) > 0; ) {
        got += n;
      }
      assertThat(got).isEqualTo(sent).isPositive();
    }
  }

  @Test
  void receive_moreDescriptorsThanAllowed_refusedAndAllClosed() throws Exception {
    Path path = folder.resolve("server");
    try (UnixSocket listener = UnixSocket.listen(path, 4)) {
      String script =
          """
          import socket, os, sys
          s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
          socket.send_fds(s, [b'x'], [os.memfd_create('m') for _ in range(40)])
          s.recv(1)
          """;
      Process python =
          new ProcessBuilder("python3", "-c", script, path.toString()).inheritIO().start();
      try (UnixSocket server = acceptOn(listener)) {
        await(server.fd(), PollSet.IN);
        long before = openDescriptors();
        assertThatThrownBy(() -> server.receive(MemorySegment.ofArray(new byte[8])))
            .isInstanceOf(ErrnoException.class)
            .hasMessageContaining("more than 16");
        assertThat(openDescriptors()).isEqualTo(before);
      } finally {
        python.destroyForcibly().waitFor();
      }
    }
  }

  private static long openDescriptors() throws IOException {
    try (var fds = Files.list(Path.of("/proc/self/fd"))) {
      return fds.filter(fd -> linkOf(fd).contains("memfd:m")).count();
    }
  }

  private static String linkOf(Path fd) {
    try {
      return Files.readSymbolicLink(fd).toString();
    } catch (IOException e) {
      return ""; // the descriptor of the listing itself
    }
  }

  @Test
  void receive_descriptorFromPython_isUsable() throws Exception {
    Path path = folder.resolve("server");
    try (UnixSocket listener = UnixSocket.listen(path, 4);
        Arena arena = Arena.ofConfined()) {
      String script =
          """
          import fcntl, mmap, os, socket, sys
          fd = os.memfd_create('ring', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
          os.ftruncate(fd, 4096)
          fcntl.fcntl(fd, 1033, 0x2 | 0x4)
          mmap.mmap(fd, 4096)[8:16] = (77).to_bytes(8, 'little')
          s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
          socket.send_fds(s, [b'x'], [fd])
          s.recv(1)
          """;
      Process python =
          new ProcessBuilder("python3", "-c", script, path.toString()).inheritIO().start();
      try (UnixSocket server = acceptOn(listener)) {
        await(server.fd(), PollSet.IN);
        int fd = server.receive(MemorySegment.ofArray(new byte[8])).fds().getFirst();
        MemorySegment ring = SharedMemory.mapShared(fd, 4096, arena);
        Linux.close(fd);
        assertThat(ring.get(ValueLayout.JAVA_LONG, 8)).isEqualTo(77);
        assertThat(server.peerCredentials().pid()).isEqualTo((int) python.pid());
      } finally {
        python.destroyForcibly().waitFor();
      }
    }
  }
}
