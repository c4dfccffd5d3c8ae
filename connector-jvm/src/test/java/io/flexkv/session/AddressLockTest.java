package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.ffm.UnixSocket;
import java.nio.file.Files;
import java.nio.file.Path;
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
  void listen_plainFileInTheWay_isLeftAlone() throws Exception {
    Path socket = folder.resolve("s");
    Files.writeString(socket, "precious");
    try (AddressLock lock = AddressLock.take(socket, 0)) {
      assertThatThrownBy(lock::listen).hasMessageContaining("no socket");
    }
    assertThat(Files.readString(socket)).isEqualTo("precious");
  }
}
