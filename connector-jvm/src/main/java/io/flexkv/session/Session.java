package io.flexkv.session;

import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.SessionFileDescriptor;
import io.flexkv.protocol.SessionFileDescriptor.Geometry;
import io.flexkv.protocol.SpscRingReader;
import io.flexkv.protocol.SpscRingWriter;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayDeque;
import org.jspecify.annotations.Nullable;

/**
 * One connected client. The rendezvous thread makes it; from then on it belongs to the cache
 * thread, except for what is final.
 *
 * <p><b>Its end.</b> EOF on the socket, or anything malformed in its ring, ends a session. Its
 * memory is unmapped then: a mover that still looks at a revoke word in it gets an exception, which
 * it takes as "revoked", never a fault.
 */
final class Session {
  /** Records that wait for room in the ring to the client. */
  static final int MAX_WAITING_RECORDS = 4096;

  static final long MAX_WAITING_BYTES = 8L << 20;

  final int id;
  final Hello hello;
  final int peerPid;
  final SessionMemory memory;
  final @Nullable FrameBridge bridge;

  private final SpscRingReader reader;
  private final SpscRingWriter writer;
  private final ArrayDeque<byte[]> waiting = new ArrayDeque<>();
  private long waitingBytes;

  @Nullable Instance instance;
  boolean ended;

  /** The operator has been told of a copy that failed. */
  boolean failureSaid;

  /** The frames of this session have something to send. */
  boolean unflushed;

  Session(int id, Hello hello, int peerPid, SessionMemory memory) {
    this.id = id;
    this.hello = hello;
    this.peerPid = peerPid;
    this.memory = memory;
    Geometry g = memory.geometry();
    if (hello.rings()) {
      bridge = null;
      reader =
          new SpscRingReader(
              memory.file(),
              SessionFileDescriptor.TO_SERVER_TAIL,
              SessionFileDescriptor.TO_SERVER_HEAD,
              g.toServerOffset(),
              g.toServerCapacity());
      writer =
          new SpscRingWriter(
              memory.file(),
              SessionFileDescriptor.TO_CLIENT_TAIL,
              SessionFileDescriptor.TO_CLIENT_HEAD,
              g.toClientOffset(),
              g.toClientCapacity());
    } else {
      bridge = new FrameBridge();
      reader = bridge.agentReader();
      writer = bridge.agentWriter();
    }
  }

  boolean hasInput() {
    return reader.hasNext();
  }

  int read(MemorySegment into) throws ProtocolException {
    return reader.read(into);
  }

  /** Longest record that can be sent to this client. */
  long maxRecordBytes() {
    return writer.maxRecordBytes();
  }

  /**
   * Sends a record, now or as soon as the client has made room.
   *
   * @throws ProtocolException if the client has let too much wait, or broke its ring
   */
  void send(MemorySegment record, int length) throws ProtocolException {
    unflushed = bridge != null;
    if (waiting.isEmpty() && writer.tryWrite(record, length)) {
      return;
    }
    if (waiting.size() >= MAX_WAITING_RECORDS || waitingBytes + length > MAX_WAITING_BYTES) {
      throw new ProtocolException(
          "%d records (%d bytes) wait for room in the ring to the client, which does not read it"
              .formatted(waiting.size(), waitingBytes));
    }
    waiting.add(record.asSlice(0, length).toArray(ValueLayout.JAVA_BYTE));
    waitingBytes += length;
  }

  /**
   * Sends a record if there is room now and nothing waits before it.
   *
   * @throws ProtocolException if the client broke its ring
   */
  boolean offer(MemorySegment record, int length) throws ProtocolException {
    if (!waiting.isEmpty() || length > maxRecordBytes() || !writer.tryWrite(record, length)) {
      return false;
    }
    unflushed = bridge != null;
    return true;
  }

  /** Sends what has waited, as far as there is room; returns how many records went. */
  int sendWaiting() throws ProtocolException {
    int sent = 0;
    for (byte[] record; (record = waiting.peek()) != null; sent++) {
      if (!writer.tryWrite(MemorySegment.ofArray(record), record.length)) {
        break;
      }
      waiting.remove();
      waitingBytes -= record.length;
      unflushed = bridge != null;
    }
    return sent;
  }

  boolean isWaiting() {
    return !waiting.isEmpty();
  }

  String clientBuild() {
    return hello.build().replaceAll("[^\\x20-\\x7e]", "?");
  }

  String label() {
    return "session " + id + " (" + hello.label() + ")";
  }
}
