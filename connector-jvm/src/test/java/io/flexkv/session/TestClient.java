package io.flexkv.session;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.ffm.EventFd;
import io.flexkv.ffm.Linux;
import io.flexkv.ffm.PollSet;
import io.flexkv.ffm.SharedMemory;
import io.flexkv.ffm.UnixSocket;
import io.flexkv.protocol.FrameDescriptor;
import io.flexkv.protocol.GenerationFileDescriptor;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RecordView;
import io.flexkv.protocol.SessionFileDescriptor;
import io.flexkv.protocol.SharedWords;
import io.flexkv.protocol.SpscRingReader;
import io.flexkv.protocol.SpscRingWriter;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.function.Consumer;

/** A client in this JVM: what the shim does, without its manners. */
sealed class TestClient implements AutoCloseable permits TestScheduler, TestRank {
  static final int PID = Math.toIntExact(ProcessHandle.current().pid());
  static final int RING = 1 << 19;
  static final int BLOCKS = 64;

  final UnixSocket socket;
  final Arena arena = Arena.ofShared();
  final SessionFileDescriptor.Geometry geometry;
  final MemorySegment file;
  final MemorySegment generations;
  final MemorySegment scratch = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
  final MemorySegment received = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
  private final int fileFd;
  private final int generationsFd;
  private final FrameBuffer input = new FrameBuffer(Protocol.MAX_FRAME_BYTES);
  private SpscRingWriter writer;
  private SpscRingReader reader;
  private EventFd wake;
  int sessionId;

  TestClient(Path path, int role, long toClientBytes) throws IOException {
    geometry = new SessionFileDescriptor.Geometry(role, PID, RING, toClientBytes, 16, 4);
    fileFd = SharedMemory.createMemfd("test-session", geometry.totalBytes());
    file = SharedMemory.mapShared(fileFd, geometry.totalBytes(), arena);
    SessionFileDescriptor.writeGeometry(file, geometry);
    long bytes = GenerationFileDescriptor.totalBytes(BLOCKS);
    generationsFd = SharedMemory.createMemfd("test-generations", bytes);
    generations = SharedMemory.mapShared(generationsFd, bytes, arena);
    GenerationFileDescriptor.writeHeader(generations, BLOCKS);
    // What a hello needs is loaded before the sidecar begins to wait for it, 1 s long.
    FrameDescriptor.encode(FrameDescriptor.HELLO, Json.bytes(hello("warm-up")));
    socket = UnixSocket.connect(path);
  }

  static TestClient of(SidecarRig rig, int role) throws IOException {
    return new TestClient(rig.socketPath, role, RING);
  }

  ObjectNode hello(String instance) {
    ObjectNode hello = Json.newObject();
    hello.put("role", geometry.role()).put("pid", PID).put("version", Protocol.VERSION);
    hello.put("instance", instance).put("namespace", "abcd").put("block_tokens", 16);
    hello.put("world_size", 1).put("rank", 0).put("kv_groups", 1);
    return hello;
  }

  /** Sends a hello, changed by {@code change}, and returns the answer's payload. */
  JsonNode greet(String instance, Consumer<ObjectNode> change) throws Exception {
    ObjectNode hello = hello(instance);
    change.accept(hello);
    sendRaw(FrameDescriptor.encode(FrameDescriptor.HELLO, Json.bytes(hello)), fds());
    return answer();
  }

  int[] fds() {
    return geometry.role() == Protocol.ROLE_SCHEDULER
        ? new int[] {fileFd, generationsFd}
        : new int[] {fileFd};
  }

  /** Joins, or fails. */
  TestClient join(String instance) throws Exception {
    return join(instance, h -> {});
  }

  /** As the other, with a hello changed by {@code change}. */
  TestClient join(String instance, Consumer<ObjectNode> change) throws Exception {
    JsonNode welcome = greet(instance, change);
    if (!welcome.has("session_id")) {
      throw new AssertionError("refused: " + welcome);
    }
    sessionId = welcome.path("session_id").asInt();
    writer =
        new SpscRingWriter(
            file,
            SessionFileDescriptor.TO_SERVER_TAIL,
            SessionFileDescriptor.TO_SERVER_HEAD,
            geometry.toServerOffset(),
            geometry.toServerCapacity());
    reader =
        new SpscRingReader(
            file,
            SessionFileDescriptor.TO_CLIENT_TAIL,
            SessionFileDescriptor.TO_CLIENT_HEAD,
            geometry.toClientOffset(),
            geometry.toClientCapacity());
    return this;
  }

  void sendRaw(byte[] bytes, int... fds) throws IOException {
    long sent = socket.send(MemorySegment.ofArray(bytes), fds);
    if (sent != bytes.length) {
      throw new IOException("sent " + sent + " of " + bytes.length);
    }
  }

  /** The next frame's payload; an empty object at the end of the stream. */
  JsonNode answer() throws Exception {
    while (!input.isWhole()) {
      if (!readable(5000)) {
        throw new AssertionError("no answer within 5 s");
      }
      UnixSocket.Received got;
      try {
        got = socket.receive(input.room());
      } catch (IOException e) {
        return Json.newObject(); // reset: it closed with bytes of ours unread
      }
      for (int fd : got.fds()) {
        wake = EventFd.ofReceived(fd);
      }
      if (got.length() == 0) {
        return Json.newObject();
      }
      input.filled(Math.max(0, got.length()));
    }
    return Json.object(input.take().payload());
  }

  boolean readable(int timeoutMillis) throws IOException {
    PollSet poll = new PollSet(1);
    poll.add(socket.fd(), PollSet.IN);
    return poll.poll(timeoutMillis) > 0;
  }

  /** Whether the sidecar has closed the connection. */
  boolean ended() {
    try {
      return readable(0) && socket.receive(MemorySegment.ofArray(new byte[64])).length() == 0;
    } catch (IOException e) {
      return true;
    }
  }

  boolean hasEventFd() {
    return wake != null;
  }

  /** Publishes the record of {@code length} bytes in {@link #scratch}, as the shim does. */
  void send(int length) throws Exception {
    if (!writer.tryWrite(scratch, length)) {
      throw new AssertionError("the ring to the sidecar is full");
    }
    if (SharedWords.getAcquireInt(file, SessionFileDescriptor.SLEEPING) == 1) {
      wake.signal();
    }
  }

  /** The job may start at once, as a worker says it, or a scheduler that starts jobs itself. */
  void go(long job, int kind) throws Exception {
    go(job, kind, Protocol.FENCE_NONE);
  }

  /** The load may start when the rank's first event is complete. */
  void goBehindEvent(long load) throws Exception {
    go(load, Protocol.KIND_LOAD, Protocol.FENCE_EVENT);
  }

  private void go(long job, int kind, int fence) throws Exception {
    boolean revocable = kind == Protocol.KIND_LOAD && geometry.role() == Protocol.ROLE_WORKER;
    boolean fenced = fence == Protocol.FENCE_EVENT;
    send(
        GoRecord.encode(
            scratch,
            job,
            fenced ? 1 : 0,
            fenced ? 0 : (int) Protocol.NO_INDEX,
            revocable ? 0 : (int) Protocol.NO_INDEX,
            60_000,
            kind,
            fence));
  }

  /** Waits for the next record and looks at it. */
  <T extends RecordView> T receive(T view) throws Exception {
    int[] length = new int[1];
    SidecarRig.await(
        view.getClass().getSimpleName(),
        () -> {
          try {
            return (length[0] = reader.read(received)) > 0;
          } catch (io.flexkv.protocol.ProtocolException e) {
            throw new AssertionError(e);
          }
        });
    view.wrap(received, length[0]);
    return view;
  }

  boolean nothingReceived() {
    return !reader.hasNext();
  }

  @Override
  public void close() {
    socket.close();
    Linux.close(fileFd);
    Linux.close(generationsFd);
    if (wake != null) {
      wake.close();
    }
  }
}
