package io.flexkv.protocol;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.MemorySegment;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/**
 * Ordered access to words of memory that two processes share.
 *
 * <p>The offsets must be aligned to the word and the segment native; the machine must be
 * little-endian, as the wire is (checked once, here).
 */
public final class SharedWords {
  private static final VarHandle LONG = JAVA_LONG.varHandle().withInvokeExactBehavior();
  private static final VarHandle INT = JAVA_INT.varHandle().withInvokeExactBehavior();

  static {
    if (ByteOrder.nativeOrder() != ByteOrder.LITTLE_ENDIAN) {
      throw new IllegalStateException("shared words need a little-endian machine");
    }
  }

  private SharedWords() {}

  /** Reads a u64; what the writer stored before it is visible afterwards. */
  public static long getAcquire(MemorySegment memory, long offset) {
    return (long) LONG.getAcquire(memory, offset);
  }

  /** Writes a u64 after everything stored before. */
  public static void setRelease(MemorySegment memory, long offset, long value) {
    LONG.setRelease(memory, offset, value);
  }

  /** Writes a u32 such that no later load or store overtakes it. */
  public static void setVolatileInt(MemorySegment memory, long offset, int value) {
    INT.setVolatile(memory, offset, value);
    VarHandle.fullFence();
  }

  /** Reads a u32 with acquire. */
  public static int getAcquireInt(MemorySegment memory, long offset) {
    return (int) INT.getAcquire(memory, offset);
  }
}
