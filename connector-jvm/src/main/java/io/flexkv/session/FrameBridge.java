package io.flexkv.session;

import io.flexkv.protocol.FrameDescriptor;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.RecordDescriptor;
import io.flexkv.protocol.SpscRingReader;
import io.flexkv.protocol.SpscRingWriter;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.jspecify.annotations.Nullable;

/**
 * Records as frames, for clients whose stores are not ordered: two rings in this process's own
 * memory, of which the cache thread has the same ends as of a client's rings, and the rendezvous
 * thread the others. So the cache thread serves both kinds of client by the same code.
 */
final class FrameBridge {
  private static final int CAPACITY = 1 << 20;
  private static final int TAIL_IN = 0;
  private static final int HEAD_IN = 128;
  private static final int TAIL_OUT = 256;
  private static final int HEAD_OUT = 384;
  private static final int DATA_IN = 512;
  private static final int MAX_OUT_PAYLOAD = 512 * 1024;

  private final SpscRingWriter fromSocket;
  private final SpscRingReader toSocket;
  private final SpscRingReader agentReader;
  private final SpscRingWriter agentWriter;
  private final MemorySegment scratch;
  private byte @Nullable [] waiting;
  private int waitingAt;

  FrameBridge() {
    Arena arena = Arena.ofAuto();
    MemorySegment memory = arena.allocate(DATA_IN + 2L * CAPACITY, 64);
    long dataOut = DATA_IN + (long) CAPACITY;
    fromSocket = new SpscRingWriter(memory, TAIL_IN, HEAD_IN, DATA_IN, CAPACITY);
    agentReader = new SpscRingReader(memory, TAIL_IN, HEAD_IN, DATA_IN, CAPACITY);
    agentWriter = new SpscRingWriter(memory, TAIL_OUT, HEAD_OUT, dataOut, CAPACITY);
    toSocket = new SpscRingReader(memory, TAIL_OUT, HEAD_OUT, dataOut, CAPACITY);
    scratch = arena.allocate(Protocol.MAX_RECORD_BYTES, 8);
  }

  /** The cache thread's end of the records that came. */
  SpscRingReader agentReader() {
    return agentReader;
  }

  /** The cache thread's end of the records that go. */
  SpscRingWriter agentWriter() {
    return agentWriter;
  }

  // ------------------------------------------------- the rendezvous thread's side

  /** Whether a frame's records wait for room: nothing more may be read from the socket then. */
  boolean isFull() {
    return waiting != null;
  }

  /** Takes the payload of a {@code RECORDS} frame; {@link #isFull} must be false. */
  void receive(byte[] payload) throws ProtocolException {
    waiting = payload;
    waitingAt = 0;
    retry();
  }

  /** Goes on with a payload that found no room; returns whether a record went in. */
  boolean retry() throws ProtocolException {
    byte[] payload = waiting;
    if (payload == null) {
      return false;
    }
    boolean any = false;
    while (waitingAt < payload.length) {
      MemorySegment rest = MemorySegment.ofArray(payload).asSlice(waitingAt);
      if (rest.byteSize() < RecordDescriptor.HEADER_BYTES) {
        throw new ProtocolException(rest.byteSize() + " bytes behind the last record of a frame");
      }
      long length = RecordDescriptor.length(rest);
      if (length < RecordDescriptor.HEADER_BYTES
          || length > Math.min(rest.byteSize(), Protocol.MAX_RECORD_BYTES)) {
        throw new ProtocolException(
            "record of %d bytes in a frame with %d left".formatted(length, rest.byteSize()));
      }
      if (RecordDescriptor.type(rest) != RecordDescriptor.TYPE_PADDING) {
        if (!fromSocket.tryWrite(rest, (int) length)) {
          return any;
        }
        any = true;
      }
      waitingAt = (int) Math.min(payload.length, waitingAt + RecordDescriptor.aligned(length));
    }
    waiting = null;
    return any;
  }

  /** A frame of what the cache thread has written, null if there is nothing. */
  byte @Nullable [] nextFrame() throws ProtocolException {
    if (!toSocket.hasNext()) {
      return null;
    }
    java.io.ByteArrayOutputStream payload = new java.io.ByteArrayOutputStream();
    int length;
    while (payload.size() < MAX_OUT_PAYLOAD && (length = toSocket.read(scratch)) > 0) {
      payload.writeBytes(scratch.asSlice(0, length).toArray(ValueLayout.JAVA_BYTE));
      for (long i = length; i < RecordDescriptor.aligned(length); i++) {
        payload.write(0);
      }
    }
    return FrameDescriptor.encode(FrameDescriptor.RECORDS, payload.toByteArray());
  }
}
