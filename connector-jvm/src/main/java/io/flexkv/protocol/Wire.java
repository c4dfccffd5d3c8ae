package io.flexkv.protocol;

import static java.lang.foreign.ValueLayout.JAVA_INT_UNALIGNED;
import static java.lang.foreign.ValueLayout.JAVA_LONG_UNALIGNED;
import static java.lang.foreign.ValueLayout.JAVA_SHORT_UNALIGNED;

import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/** Number formats of the wire: everything little-endian, nothing assumed about addresses. */
final class Wire {
  static final ValueLayout.OfShort U16 = JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  static final ValueLayout.OfInt U32 = JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  static final ValueLayout.OfLong U64 = JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  private Wire() {}

  /** The next multiple of eight at or above {@code length}. */
  static long align8(long length) {
    return (length + 7) & ~7L;
  }

  /** Eight ASCII characters as the little-endian number that the first 8 bytes of a file hold. */
  static long magic(String eightCharacters) {
    if (eightCharacters.length() != 8) {
      throw new IllegalArgumentException("magic of " + eightCharacters.length() + " characters");
    }
    long value = 0;
    for (int i = 7; i >= 0; i--) {
      value = value << 8 | (eightCharacters.charAt(i) & 0xFF);
    }
    return value;
  }
}
