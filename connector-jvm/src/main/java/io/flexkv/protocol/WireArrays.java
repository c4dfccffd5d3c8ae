package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;

/** Copies of arrays into records. */
final class WireArrays {
  private WireArrays() {}

  /** Copies bytes to {@code at} and writes zeros from their end up to {@code end}. */
  static void copy(byte[] from, MemorySegment to, long at, long end) {
    MemorySegment.copy(from, 0, to, ValueLayout.JAVA_BYTE, at, from.length);
    for (long i = at + from.length; i < end; i++) {
      to.set(ValueLayout.JAVA_BYTE, i, (byte) 0);
    }
  }

  /** Copies what remains of a buffer, which stays as it is, and zeros up to {@code end}. */
  static void copy(ByteBuffer from, MemorySegment to, long at, long end) {
    MemorySegment.copy(MemorySegment.ofBuffer(from), 0, to, at, from.remaining());
    for (long i = at + from.remaining(); i < end; i++) {
      to.set(ValueLayout.JAVA_BYTE, i, (byte) 0);
    }
  }

  static void copy(int[] from, MemorySegment to, long at) {
    MemorySegment.copy(from, 0, to, Wire.U32, at, from.length);
  }

  static void copy(long[] from, MemorySegment to, long at) {
    MemorySegment.copy(from, 0, to, Wire.U64, at, from.length);
  }
}
