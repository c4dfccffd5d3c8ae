package io.flexkv.session;

import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.Linux;
import io.flexkv.ffm.UnixSocket;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** One accepted socket and what is half received or half sent on it. Rendezvous thread only. */
final class Connection {
  /** A hello is a few hundred bytes; this leaves room for many releases. */
  static final int MAX_HELLO_BYTES = 64 * 1024;

  /** Descriptors of a hello; one more is a protocol error. */
  static final int MAX_HELLO_FDS = 2;

  private static final int MAX_QUEUED_FRAMES = 16;

  final UnixSocket socket;
  final UnixSocket.Credentials peer;
  final long acceptedNanos;
  final FrameBuffer input = new FrameBuffer(MAX_HELLO_BYTES);
  final List<Integer> fds = new ArrayList<>();
  private final ArrayDeque<MemorySegment> output = new ArrayDeque<>();
  @Nullable Session session;
  boolean closed;

  /** Index in the poll set of this turn. */
  int pollIndex = -1;

  Connection(UnixSocket socket, long nowNanos) throws ErrnoException {
    this.socket = socket;
    this.peer = socket.peerCredentials();
    this.acceptedNanos = nowNanos;
  }

  /** Sends, or keeps what the kernel does not take; the descriptors go with the first byte. */
  void send(byte[] bytes, int... attached) throws IOException {
    MemorySegment rest = MemorySegment.ofArray(bytes);
    if (output.isEmpty()) {
      long sent = socket.send(rest, attached);
      if (sent == Linux.WOULD_BLOCK) {
        if (attached.length > 0) {
          throw new IOException("a new socket takes no byte");
        }
        sent = 0;
      }
      rest = rest.asSlice(sent);
    }
    if (rest.byteSize() > 0) {
      output.add(rest);
    }
  }

  void flush() throws IOException {
    for (MemorySegment first; (first = output.peek()) != null; ) {
      long sent = socket.send(first);
      if (sent == Linux.WOULD_BLOCK) {
        return;
      }
      output.remove();
      if (sent < first.byteSize()) {
        output.addFirst(first.asSlice(sent));
      }
    }
  }

  boolean hasOutput() {
    return !output.isEmpty();
  }

  boolean outputFull() {
    return output.size() >= MAX_QUEUED_FRAMES;
  }

  void closeDescriptors() {
    fds.forEach(Linux::close);
    fds.clear();
  }

  void close() {
    closed = true;
    closeDescriptors();
    socket.close();
  }
}
