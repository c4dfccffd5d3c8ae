package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * The block-generation table: a second sealed memfd of scheduler sessions, written by the scheduler
 * alone; it survives the sidecar.
 *
 * <pre>
 *         0         8        12        16                64
 *         +---------+--------+---------+---- ... --------+----------------------------+
 *         | magic   | layout | entries | reserved        | counter u64 of block 0, 1, … |
 *         | u64     | u32    | u32     |                 |                            |
 *         +---------+--------+---------+---- ... --------+----------------------------+
 * </pre>
 *
 * <p>A counter is raised when the engine newly assigns its block. Who copied a block out of the
 * engine reads its counter afterwards, with acquire: equal to the planned one means that nothing
 * was written over the block while it was copied.
 */
public final class GenerationFileDescriptor {
  public static final int HEADER_BYTES = 64;

  /** Most blocks of an engine that are served. */
  public static final int MAX_ENTRIES = 1 << 27;

  private static final long MAGIC_VALUE = Wire.magic("FXKVGEN1");
  private static final int MAGIC = 0;
  private static final int LAYOUT_VERSION = 8;
  private static final int ENTRIES = 12;

  private GenerationFileDescriptor() {}

  /** Length of a file with {@code entries} counters, a multiple of the page size. */
  public static long totalBytes(int entries) {
    return (HEADER_BYTES + 8L * entries + 4095) & ~4095L;
  }

  /**
   * Reads and checks the header of a mapped file.
   *
   * @return number of counters; all of them lie within the mapping
   */
  public static int entries(MemorySegment file) throws ProtocolException {
    check(
        file.byteSize() >= HEADER_BYTES,
        "generation file of %d bytes, at least %d",
        file.byteSize(),
        HEADER_BYTES);
    long magic = file.get(Wire.U64, MAGIC);
    check(magic == MAGIC_VALUE, "generation file magic 0x%x, must be 0x%x", magic, MAGIC_VALUE);
    long version = Integer.toUnsignedLong(file.get(Wire.U32, LAYOUT_VERSION));
    check(
        version == Protocol.VERSION,
        "generation file layout %d, must be %d",
        version,
        Protocol.VERSION);
    long entries = Integer.toUnsignedLong(file.get(Wire.U32, ENTRIES));
    check(
        entries > 0 && entries <= MAX_ENTRIES,
        "generation file of %d entries, at least 1 and at most %d",
        entries,
        MAX_ENTRIES);
    check(
        HEADER_BYTES + 8 * entries <= file.byteSize(),
        "generation file of %d entries has %d bytes",
        entries,
        file.byteSize());
    return (int) entries;
  }

  /** Writes a header. */
  public static void writeHeader(MemorySegment file, int entries) {
    file.set(Wire.U64, MAGIC, MAGIC_VALUE);
    file.set(Wire.U32, LAYOUT_VERSION, Protocol.VERSION);
    file.set(Wire.U32, ENTRIES, entries);
  }

  /** The counter of a block, with acquire; the caller has checked {@code block < entries}. */
  public static long counter(MemorySegment file, int block) {
    return SharedWords.getAcquire(file, HEADER_BYTES + 8L * block);
  }

  /** Sets the counter of a block, with release. */
  public static void setCounter(MemorySegment file, int block, long value) {
    SharedWords.setRelease(file, HEADER_BYTES + 8L * block, value);
  }
}
