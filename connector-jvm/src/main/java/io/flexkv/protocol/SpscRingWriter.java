package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * The writing end of a ring of records with one reader, which is not trusted; see {@link
 * SpscRingReader} for the rules. The tail lives in this object; the head that the other side stores
 * is only believed within [tail − capacity, tail]. Owned by one thread; no allocation.
 */
public final class SpscRingWriter {
  private final MemorySegment memory;
  private final long tailOffset;
  private final long headOffset;
  private final long dataOffset;
  private final long capacity;
  private long tail;
  private long headSeen;

  /** See {@link SpscRingReader#SpscRingReader}. */
  public SpscRingWriter(
      MemorySegment memory, long tailOffset, long headOffset, long dataOffset, long capacity) {
    if (Long.bitCount(capacity) != 1 || dataOffset + capacity > memory.byteSize()) {
      throw new IllegalArgumentException(
          "ring of %d bytes at %d in %d".formatted(capacity, dataOffset, memory.byteSize()));
    }
    this.memory = memory;
    this.tailOffset = tailOffset;
    this.headOffset = headOffset;
    this.dataOffset = dataOffset;
    this.capacity = capacity;
  }

  /** The longest record that can always be written once the ring is empty. */
  public long maxRecordBytes() {
    return capacity / 2;
  }

  /**
   * Appends the record at the start of {@code record}.
   *
   * @param length its bytes, at most {@link #maxRecordBytes()}
   * @return false if there is no room now; nothing was written
   * @throws ProtocolException if the reader's head is impossible; the ring must not be used again
   */
  public boolean tryWrite(MemorySegment record, int length) throws ProtocolException {
    if (length < RecordDescriptor.HEADER_BYTES || length > maxRecordBytes()) {
      throw new IllegalArgumentException(
          "record of " + length + " bytes, at most " + maxRecordBytes());
    }
    long bytes = Wire.align8(length);
    long offset = tail & (capacity - 1);
    long toEnd = capacity - offset;
    long needed = bytes <= toEnd ? bytes : toEnd + bytes;
    if (tail + needed - headSeen > capacity) {
      long seen = SharedWords.getAcquire(memory, headOffset);
      check(seen - headSeen >= 0 && tail - seen >= 0, "ring head %d, tail is %d", seen, tail);
      headSeen = seen;
      if (tail + needed - headSeen > capacity) {
        return false;
      }
    }
    if (bytes > toEnd) {
      memory.set(Wire.U32, dataOffset + offset, (int) toEnd);
      memory.set(Wire.U32, dataOffset + offset + RecordDescriptor.TYPE, 0);
      tail += toEnd;
      offset = 0;
    }
    MemorySegment.copy(record, 0, memory, dataOffset + offset, length);
    tail += bytes;
    SharedWords.setRelease(memory, tailOffset, tail);
    return true;
  }
}
