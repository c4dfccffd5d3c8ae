package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.ffm.UnixSocket;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AddressLockTest {
  @TempDir Path folder;

  @Test
  void take_heldByAnother_isOccupied() throws Exception {
    Path socket = folder.resolve("s");
    try (AddressLock first = AddressLock.take(socket, 0)) {
      assertThatThrownBy(() -> AddressLock.take(socket, 50))
          .isInstanceOf(AddressLock.OccupiedException.class)
          .hasMessageContaining("another sidecar")
          .hasMessageContaining("stop it (flexkv status names its pid)")
          .hasMessageContaining("FLEXKV_SERVER_RECV_PORT to another path");
      assertThat(first).isNotNull();
    }
    AddressLock.take(socket, 0).close();
  }

  @Test
  void take_folderThatIsNotThere_saysHowToMakeIt() {
    Path missing = folder.resolve("not/there");
    assertThatThrownBy(() -> AddressLock.take(missing.resolve("s"), 0))
        .hasMessageContaining("does not exist: make it (mkdir -p " + missing + ")")
        .hasMessageContaining("FLEXKV_SERVER_RECV_PORT");
  }

  @Test
  void listen_socketOfADeadOne_isReplaced() throws Exception {
    Path socket = folder.resolve("s");
    UnixSocket.listen(socket, 1).close();
    assertThat(socket).exists();
    try (AddressLock lock = AddressLock.take(socket, 0);
        UnixSocket listener = lock.listen();
        UnixSocket client = UnixSocket.connect(socket)) {
      assertThat(listener.fd()).isNotEqualTo(client.fd());
    }
  }

  @Test
  void listen_somebodyAnswersWithoutTheLock_isLeftAlone() throws Exception {
    Path socket = folder.resolve("s");
    try (UnixSocket other = UnixSocket.listen(socket, 1);
        AddressLock lock = AddressLock.take(socket, 0)) {
      assertThatThrownBy(lock::listen)
          .isInstanceOf(AddressLock.OccupiedException.class)
          .hasMessageContaining("without its lock")
          .hasMessageContaining("FLEXKV_SERVER_RECV_PORT to another path");
      assertThat(other.fd()).isPositive();
      assertThat(socket).exists();
    }
  }

  @Test
  void take_fileOrFolderInTheWay_isAnErrorOfTheSettingsAndLeavesItAlone() throws Exception {
    Path file = Files.writeString(folder.resolve("file"), "precious");
    Path inner = Files.createDirectory(folder.resolve("folder"));
    assertRefused(() -> AddressLock.take(file, 0), file + " is a file,");
    assertRefused(() -> AddressLock.take(inner, 0), inner + " is a folder,");
    assertThat(Files.readString(file)).isEqualTo("precious");
    try (var left = Files.list(folder)) {
      assertThat(left).containsExactlyInAnyOrder(file, inner);
    }
  }

  @Test
  void listen_fileInTheWayThatCameSince_isAnErrorOfTheSettingsAndLeavesItAlone() throws Exception {
    Path socket = folder.resolve("s");
    try (AddressLock lock = AddressLock.take(socket, 0)) {
      Files.writeString(socket, "precious");
      assertRefused(lock::listen, socket + " is a file,");
    }
    assertThat(Files.readString(socket)).isEqualTo("precious");
  }

  @Test
  void listen_linkThatLeadsNowhere_isAnErrorOfTheSettings() throws Exception {
    Path socket = Files.createSymbolicLink(folder.resolve("s"), folder.resolve("gone"));
    try (AddressLock lock = AddressLock.take(socket, 0)) {
      assertRefused(lock::listen, socket + " is a symbolic link");
    }
    assertThat(Files.isSymbolicLink(socket)).isTrue();
  }

  /** Whoever is told of an occupied address tries again, for nothing here. */
  private static void assertRefused(ThrowingCallable call, String beginning) {
    assertThatThrownBy(call)
        .isExactlyInstanceOf(IOException.class)
        .hasMessageStartingWith(beginning)
        .hasMessageContaining("set FLEXKV_SERVER_RECV_PORT to another path, or move it away");
  }
}
