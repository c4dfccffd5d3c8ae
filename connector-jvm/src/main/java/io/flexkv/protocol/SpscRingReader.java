package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * The reading end of a ring of records with one writer, which is not trusted.
 *
 * <p><b>How it works.</b> Tail (written by the other side) and head (written here) are byte
 * positions that only grow; position modulo capacity, a power of two, is the offset in the ring. A
 * record begins at a multiple of eight and never wraps: where it would, a PADDING record fills the
 * rest, which is at least eight bytes and so has room for its header. The writer stores the record,
 * then the tail with release; this side loads the tail with acquire, copies the record out, then
 * stores the head with release, after which the writer may use the room again.
 *
 * <p><b>What is trusted.</b> Nothing. The head lives in this object (the shared copy is only
 * written), so the other side cannot move it; the tail must lie in [head, head + capacity]; a
 * length is read once and must fit between head and tail and before the end of the ring; and the
 * record is copied out before anybody looks into it, so that bytes which change later change
 * nothing. What breaks these rules is a {@link ProtocolException}, and the ring must not be read
 * again.
 *
 * <p>Owned by one thread; no allocation.
 */
public final class SpscRingReader {
  private final MemorySegment memory;
  private final long tailOffset;
  private final long headOffset;
  private final long dataOffset;
  private final long capacity;
  private long head;

  /**
   * @param memory holds the counters and the ring
   * @param tailOffset of the writer's u64
   * @param headOffset of the reader's u64
   * @param dataOffset of the ring
   * @param capacity bytes of the ring, a power of two
   */
  public SpscRingReader(
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

  /** Whether there is anything to read; says yes where {@link #read} would throw. */
  public boolean hasNext() {
    return SharedWords.getAcquire(memory, tailOffset) != head;
  }

  /**
   * Copies the next record out and frees its room.
   *
   * @param into at least {@link Protocol#MAX_RECORD_BYTES}
   * @return its length in bytes, header included; 0 if there is none
   */
  public int read(MemorySegment into) throws ProtocolException {
    while (true) {
      long tail = SharedWords.getAcquire(memory, tailOffset);
      long available = tail - head;
      if (available == 0) {
        return 0;
      }
      check(
          available > 0 && available <= capacity,
          "ring with %d bytes waiting, at most %d",
          available,
          capacity);
      check(
          (available & 7) == 0,
          "ring with %d bytes waiting, must be a multiple of %d",
          available,
          8);
      long offset = head & (capacity - 1);
      long at = dataOffset + offset;
      long length = Integer.toUnsignedLong(memory.get(Wire.U32, at));
      int type = Short.toUnsignedInt(memory.get(Wire.U16, at + RecordDescriptor.TYPE));
      long room = Math.min(available, capacity - offset);
      check(
          length >= RecordDescriptor.HEADER_BYTES && Wire.align8(length) <= room,
          "record of %d bytes in a ring, at least 8 and at most %d",
          length,
          room);
      if (type == RecordDescriptor.TYPE_PADDING) {
        check(
            length == capacity - offset,
            "padding of %d bytes, %d are left to the end of the ring",
            length,
            capacity - offset);
        release(length);
        continue;
      }
      check(
          length <= Protocol.MAX_RECORD_BYTES,
          "record of %d bytes, at most %d",
          length,
          Protocol.MAX_RECORD_BYTES);
      MemorySegment.copy(memory, at, into, 0, length);
      // What was checked is what is decoded, whatever the other side stores meanwhile.
      into.set(Wire.U32, RecordDescriptor.LENGTH, (int) length);
      release(Wire.align8(length));
      return (int) length;
    }
  }

  private void release(long bytes) {
    head += bytes;
    SharedWords.setRelease(memory, headOffset, head);
  }
}
