package io.flexkv.session;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.ffm.Linux;
import io.flexkv.ffm.PollSet;
import io.flexkv.ffm.SharedMemory;
import io.flexkv.ffm.UnixSocket;
import io.flexkv.protocol.FrameDescriptor;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.SessionFileDescriptor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;

/** The client's side of a rendezvous, for tools: gets the control plane's address and token. */
public final class ToolSession implements AutoCloseable {
  private static final int RING_BYTES = 4096;

  private final UnixSocket socket;
  private final JsonNode welcome;

  private ToolSession(UnixSocket socket, JsonNode welcome) {
    this.socket = socket;
    this.welcome = welcome;
  }

  /**
   * Joins the sidecar at {@code path}.
   *
   * @throws IOException if nobody is there, or says no (the text says why)
   */
  public static ToolSession open(Path path, int timeoutMillis) throws IOException {
    int pid = Math.toIntExact(ProcessHandle.current().pid());
    var geometry =
        new SessionFileDescriptor.Geometry(Protocol.ROLE_TOOL, pid, RING_BYTES, RING_BYTES, 0, 0);
    int fd = SharedMemory.createMemfd("flexkv-tool", geometry.totalBytes());
    UnixSocket socket = null;
    try {
      try (Arena arena = Arena.ofConfined()) {
        SessionFileDescriptor.writeGeometry(
            SharedMemory.mapShared(fd, geometry.totalBytes(), arena), geometry);
      }
      socket = UnixSocket.connect(path);
      ObjectNode hello = Json.newObject();
      hello.put("role", Protocol.ROLE_TOOL).put("pid", pid).put("version", Protocol.VERSION);
      byte[] frame = FrameDescriptor.encode(FrameDescriptor.HELLO, Json.bytes(hello));
      if (socket.send(MemorySegment.ofArray(frame), fd) != frame.length) {
        throw new IOException("the hello was not taken");
      }
      return new ToolSession(socket, answer(socket, timeoutMillis));
    } catch (IOException | RuntimeException e) {
      if (socket != null) {
        socket.close();
      }
      throw e;
    } finally {
      Linux.close(fd);
    }
  }

  private static JsonNode answer(UnixSocket socket, int timeoutMillis) throws IOException {
    FrameBuffer buffer = new FrameBuffer(Protocol.MAX_FRAME_BYTES);
    PollSet poll = new PollSet(1);
    long deadline = System.nanoTime() + timeoutMillis * 1_000_000L;
    try {
      while (!buffer.isWhole()) {
        long left = (deadline - System.nanoTime()) / 1_000_000;
        poll.clear();
        poll.add(socket.fd(), PollSet.IN);
        if (left <= 0 || poll.poll((int) left) == 0) {
          throw new IOException("no answer to the hello within " + timeoutMillis + " ms");
        }
        UnixSocket.Received received = socket.receive(buffer.room());
        received.fds().forEach(Linux::close);
        if (received.length() == 0) {
          throw new IOException("the sidecar closed the connection");
        }
        buffer.filled(Math.max(0, received.length()));
      }
      FrameBuffer.Frame frame = buffer.take();
      JsonNode json = Json.object(frame.payload());
      if (frame.type() != FrameDescriptor.WELCOME) {
        throw new IOException("refused: " + json.path("message").asText());
      }
      return json;
    } catch (ProtocolException e) {
      throw new IOException("the answer to the hello is malformed: " + e.getMessage(), e);
    }
  }

  public String controlEndpoint() {
    return welcome.path("control_endpoint").asText();
  }

  /** Opens the control plane; must not be logged. */
  public String controlToken() {
    return welcome.path("control_token").asText();
  }

  @Override
  public void close() {
    socket.close();
  }
}
