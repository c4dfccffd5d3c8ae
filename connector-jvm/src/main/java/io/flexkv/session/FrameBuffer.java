package io.flexkv.session;

import io.flexkv.protocol.FrameDescriptor;
import io.flexkv.protocol.ProtocolException;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;

/**
 * Puts frames together from what a stream socket delivers. Grows to one frame of the largest size
 * that is allowed at the time, no further. Owned by one thread.
 */
final class FrameBuffer {
  private static final int FIRST = 4096;

  private byte[] bytes = new byte[FIRST];
  private int length;
  private int maxPayload;

  FrameBuffer(int maxPayload) {
    this.maxPayload = maxPayload;
  }

  /** A frame and its type. */
  @SuppressWarnings("ArrayRecordComponent") // made by take() for one reader
  record Frame(int version, int type, byte[] payload) {}

  /** Room for the next read: at least one byte, never more than the frame being read needs. */
  MemorySegment room() throws ProtocolException {
    int wanted = wanted();
    if (bytes.length < wanted) {
      bytes = Arrays.copyOf(bytes, wanted);
    }
    return MemorySegment.ofArray(bytes).asSlice(length, wanted - (long) length);
  }

  /** Says how much of {@link #room} was filled. */
  void filled(long count) {
    length += (int) count;
  }

  boolean isEmpty() {
    return length == 0;
  }

  void maxPayload(int limit) {
    maxPayload = limit;
  }

  /** Whether the frame in the buffer is whole. */
  boolean isWhole() throws ProtocolException {
    return length >= FrameDescriptor.HEADER_BYTES && length == wanted();
  }

  /** The whole frame; the buffer is empty afterwards. */
  Frame take() {
    MemorySegment header = MemorySegment.ofArray(bytes);
    Frame frame =
        new Frame(
            FrameDescriptor.version(header),
            FrameDescriptor.type(header),
            Arrays.copyOfRange(bytes, FrameDescriptor.HEADER_BYTES, length));
    length = 0;
    return frame;
  }

  private int wanted() throws ProtocolException {
    if (length < FrameDescriptor.HEADER_BYTES) {
      return FrameDescriptor.HEADER_BYTES;
    }
    MemorySegment header = MemorySegment.ofArray(bytes).asSlice(0, FrameDescriptor.HEADER_BYTES);
    FrameDescriptor.checkHeader(header);
    int payload = FrameDescriptor.payloadBytes(header);
    if (payload > maxPayload) {
      throw new ProtocolException("frame of %d bytes, at most %d".formatted(payload, maxPayload));
    }
    return FrameDescriptor.HEADER_BYTES + payload;
  }
}
