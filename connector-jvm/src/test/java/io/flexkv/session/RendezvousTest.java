package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import io.flexkv.ffm.SharedMemory;
import io.flexkv.ffm.UnixSocket;
import io.flexkv.protocol.EchoRecord;
import io.flexkv.protocol.FrameDescriptor;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.SessionFileDescriptor;
import io.flexkv.protocol.SharedWords;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Who gets a session and who does not, over a real socket. */
class RendezvousTest {
  @TempDir Path folder;
  private SidecarRig rig;

  @BeforeEach
  void start() throws Exception {
    rig = new SidecarRig(folder);
  }

  @AfterEach
  void stop() throws Exception {
    rig.close();
  }

  private void expectStillServing() throws Exception {
    try (TestClient good = TestClient.of(rig, Protocol.ROLE_TOOL).join("")) {
      good.send(EchoRecord.encode(good.scratch, 77, new byte[] {1, 2, 3}));
      assertThat(good.receive(EchoRecord.answer()).queryId()).isEqualTo(77);
    }
  }

  @Test
  void hello_good_isWelcomedWithIdentityAndEventFd() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_SCHEDULER)) {
      JsonNode welcome = client.greet("e", h -> {});
      assertThat(welcome.path("boot_epoch").asText()).isEqualTo(rig.identity.epochText());
      assertThat(welcome.path("control_token").asText()).hasSize(64);
      assertThat(SessionFileDescriptor.bootEpoch(client.file)).isEqualTo(rig.identity.bootEpoch());
      assertThat(SessionFileDescriptor.sessionId(client.file))
          .isEqualTo(welcome.path("session_id").asInt());
      assertThat(client.hasEventFd()).isTrue();
    }
  }

  @Test
  void controlToken_isNotInWhatLogsPrint() {
    assertThat(rig.identity.toString()).doesNotContain(rig.identity.controlToken());
    assertThat(rig.identity.controlToken()).matches("[0-9a-f]{64}");
  }

  @Test
  void socketFile_isForItsOwnerOnly() throws Exception {
    assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(rig.socketPath)))
        .isEqualTo("rw-------");
  }

  @Test
  void hello_otherVersion_isRefused() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_WORKER)) {
      byte[] frame = FrameDescriptor.encode(FrameDescriptor.HELLO, Json.bytes(client.hello("e")));
      frame[4] = 9;
      client.sendRaw(frame, client.fds());
      JsonNode refused = client.answer();
      assertThat(refused.path("code").asText()).isEqualTo("version");
      assertThat(refused.path("message").asText()).contains("protocol 9");
    }
    expectStillServing();
  }

  @Test
  void garbage_isRefusedAndCostsNothing() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_TOOL)) {
      client.sendRaw("GET / HTTP/1.1\r\nHost: x\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
      assertThat(client.answer().path("code").asText()).isIn("malformed", "");
      SidecarRig.await("the end", client::ended);
    }
    expectStillServing();
    assertThat(rig.rendezvous.clients()).isZero();
  }

  @Test
  void hello_oversized_isRefusedUnread() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_TOOL)) {
      byte[] frame = FrameDescriptor.encode(FrameDescriptor.HELLO, new byte[4]);
      frame[8] = (byte) 0xFF;
      frame[9] = (byte) 0xFF;
      frame[10] = (byte) 0xFF;
      frame[11] = 0x7F;
      client.sendRaw(frame);
      JsonNode refused = client.answer();
      assertThat(refused.path("message").asText())
          .isIn("", "frame of 2147483647 bytes, at most 1048576");
      SidecarRig.await("the end", client::ended);
    }
    expectStillServing();
  }

  @Test
  void hello_truncatedAndSilent_isClosedAfterASecond() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_TOOL)) {
      byte[] frame = FrameDescriptor.encode(FrameDescriptor.HELLO, new byte[100]);
      client.sendRaw(java.util.Arrays.copyOf(frame, 40));
      long began = System.nanoTime();
      assertThat(client.answer().path("message").asText()).contains("within 1 s");
      assertThat((System.nanoTime() - began) / 1_000_000).isBetween(800L, 4000L);
    }
    expectStillServing();
  }

  @Test
  void hello_wrongFields_areNamed() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_WORKER)) {
      assertThat(client.greet("e", h -> h.put("rank", 3)).path("message").asText())
          .contains("rank=3", "0 to 0");
    }
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_WORKER)) {
      assertThat(client.greet("e", h -> h.put("pid", 1)).path("message").asText())
          .contains("hello says pid 1");
    }
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_WORKER)) {
      assertThat(client.greet("e", h -> h.put("role", 1)).path("message").asText())
          .contains("role");
    }
  }

  @Test
  void sessionFile_unsealed_isRefused() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_TOOL)) {
      Path plain = folder.resolve("plain");
      Files.write(plain, new byte[(int) client.geometry.totalBytes()]);
      // The file of a folder has no seals at all; a descriptor of it comes over /proc.
      try (var channel = java.nio.channels.FileChannel.open(plain)) {
        int fd = newestFd(plain);
        client.sendRaw(
            FrameDescriptor.encode(FrameDescriptor.HELLO, Json.bytes(client.hello(""))), fd);
        assertThat(client.answer().path("message").asText()).contains("session file");
        assertThat(channel.isOpen()).isTrue();
      }
    }
    assertThat(SharedMemory.SEAL_SHRINK).isEqualTo(2);
  }

  private static int newestFd(Path file) throws Exception {
    try (var fds = Files.newDirectoryStream(Path.of("/proc/self/fd"))) {
      for (Path fd : fds) {
        if (Files.isSymbolicLink(fd) && Files.readSymbolicLink(fd).equals(file.toRealPath())) {
          return Integer.parseInt(fd.getFileName().toString());
        }
      }
    }
    throw new AssertionError("no descriptor of " + file);
  }

  @Test
  void secondScheduler_isRefusedWhileTheFirstLives() throws Exception {
    TestClient first = TestClient.of(rig, Protocol.ROLE_SCHEDULER).join("e");
    try (TestClient second = TestClient.of(rig, Protocol.ROLE_SCHEDULER)) {
      JsonNode refused = second.greet("e", h -> {});
      assertThat(refused.path("code").asText()).isEqualTo("duplicate");
      assertThat(refused.path("message").asText()).contains("engine_id");
    }
    first.close();
    try (TestClient third = TestClient.of(rig, Protocol.ROLE_SCHEDULER).join("e")) {
      assertThat(third.sessionId).isGreaterThan(first.sessionId);
    }
  }

  @Test
  void sessions_beyondTheLimit_areRefused() throws Exception {
    TestClient[] clients = new TestClient[SidecarRig.MAX_SESSIONS];
    for (int i = 0; i < clients.length; i++) {
      clients[i] = TestClient.of(rig, Protocol.ROLE_SCHEDULER).join("e" + i);
    }
    try (TestClient more = TestClient.of(rig, Protocol.ROLE_SCHEDULER)) {
      assertThat(more.greet("more", h -> {}).path("code").asText()).isEqualTo("limit");
    }
    for (TestClient client : clients) {
      client.close();
    }
    SidecarRig.await("all gone", () -> rig.rendezvous.clients() == 0);
    expectStillServing();
  }

  @Test
  void peerOfAnotherUser_isRefusedBeforeAByteIsRead() {
    Admission admission = new Admission(rig.identity, 1000, 1);
    assertThatThrownBy(() -> admission.checkPeer(new UnixSocket.Credentials(42, 0, 0)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("uid 0")
        .hasMessageContaining("uid 1000");
  }

  @Test
  void ring_broken_endsThatSessionOnly() throws Exception {
    try (TestClient good = TestClient.of(rig, Protocol.ROLE_TOOL).join("");
        TestClient bad = TestClient.of(rig, Protocol.ROLE_TOOL).join("")) {
      SharedWords.setRelease(bad.file, SessionFileDescriptor.TO_SERVER_TAIL, 12345);
      SidecarRig.await("the end of the bad one", bad::ended);
      good.send(EchoRecord.encode(good.scratch, 5, new byte[0]));
      assertThat(good.receive(EchoRecord.answer()).queryId()).isEqualTo(5);
    }
  }

  @Test
  void ring_unreadByItsClient_endsThatSessionOnlyWhenTooMuchWaits() throws Exception {
    try (TestClient good = TestClient.of(rig, Protocol.ROLE_TOOL).join("");
        TestClient lazy = new TestClient(rig.socketPath, Protocol.ROLE_TOOL, 4096).join("")) {
      byte[] payload = new byte[1024];
      for (int i = 1; !lazy.ended(); i++) {
        assertThat(i).as("echoes that wait unread").isLessThan(20_000);
        try {
          lazy.send(EchoRecord.encode(lazy.scratch, i, payload));
        } catch (AssertionError full) {
          Thread.sleep(1);
        }
        if (i % 500 == 0) {
          good.send(EchoRecord.encode(good.scratch, i, new byte[0]));
          assertThat(good.receive(EchoRecord.answer()).queryId()).isEqualTo(i);
        }
      }
    }
  }

  @Test
  void sleepingSidecar_isWokenByTheEventFd() throws Exception {
    try (TestClient client = TestClient.of(rig, Protocol.ROLE_TOOL).join("")) {
      for (int i = 1; i < 5; i++) {
        SidecarRig.await(
            "sleep",
            () -> SharedWords.getAcquireInt(client.file, SessionFileDescriptor.SLEEPING) == 1);
        client.send(EchoRecord.encode(client.scratch, i, new byte[0]));
        assertThat(client.receive(EchoRecord.answer()).queryId()).isEqualTo(i);
      }
    }
  }

  @Test
  void schedulersRecord_fromAWorker_endsIt() throws Exception {
    try (TestClient worker = TestClient.of(rig, Protocol.ROLE_WORKER).join("e")) {
      worker.send(io.flexkv.protocol.ResetRecord.encode(worker.scratch, 1));
      SidecarRig.await("the end", worker::ended);
    }
  }
}
