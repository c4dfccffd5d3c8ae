package io.flexkv.device;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import io.flexkv.ffm.CudaDriver;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * The strided copies of one slice as the driver takes them. Owned by one stream.
 *
 * <p>A batched call holds copies of one width and height. That calls of several lose some is known
 * of plain copies only (docs/decisions/batches-of-one-length.md), and nobody promises that strided
 * ones are another matter.
 *
 * <p>{@code CUDA_MEMCPY3D_BATCH_OP}, {@value #OP_BYTES} bytes, two operands and an extent:
 *
 * <pre>
 *   0 i32 kind of the source (1 = pointer)    8 u64 address   16 u64 row length   24 u64 layer height
 *  32 i32 type, 36 i32 id of its location (0 = none)
 *  40 … 79 the destination, likewise
 *  80 u64 width   88 u64 height   96 u64 depth   104 i32 source access order   108 u32 flags
 * </pre>
 *
 * <p>{@code CUDA_MEMCPY2D}, {@value #COPY_2D_BYTES} bytes:
 *
 * <pre>
 *   0 u64 x, 8 u64 y of the source   16 i32 its memory type (1 = host, 2 = device)
 *  24 u64 host address   32 u64 device address   40 u64 array   48 u64 pitch
 *  56 … 111 the destination, likewise
 * 112 u64 width   120 u64 height
 * </pre>
 */
final class CudaRows {
  static final int OP_BYTES = 112;
  static final int COPY_2D_BYTES = 128;
  private static final int OPERAND_BYTES = 40;
  private static final int HALF_2D_BYTES = 56;
  private static final int POINTER = 1;

  private static final int HOST = 1;
  private static final int DEVICE = 2;

  private final CudaDriver driver;
  private final boolean load;
  private final int capacity;
  private final MemorySegment ops;
  private final MemorySegment copy2d;
  private final MemorySegment failIndex;
  private int count;

  CudaRows(CudaDriver driver, Direction direction, int capacity, int accessOrder, int flags) {
    this.driver = driver;
    this.load = direction == Direction.LOAD;
    this.capacity = capacity;
    Arena arena = Arena.ofAuto();
    this.ops = arena.allocate((long) OP_BYTES * capacity, 8);
    this.copy2d = arena.allocate(COPY_2D_BYTES, 8);
    this.failIndex = arena.allocate(8, 8);
    for (long at = 0; at < ops.byteSize(); at += OP_BYTES) {
      ops.set(JAVA_INT, at, POINTER);
      ops.set(JAVA_INT, at + OPERAND_BYTES, POINTER);
      ops.set(JAVA_LONG, at + 96, 1);
      ops.set(JAVA_INT, at + 104, accessOrder);
      ops.set(JAVA_INT, at + 108, flags);
    }
  }

  boolean full() {
    return count == capacity;
  }

  void clear() {
    count = 0;
  }

  void put(long device, long host, long width, long rows, long devicePitch, long hostPitch) {
    long at = (long) OP_BYTES * count++;
    operand(at, load ? host : device, load ? hostPitch : devicePitch, rows);
    operand(at + OPERAND_BYTES, load ? device : host, load ? devicePitch : hostPitch, rows);
    ops.set(JAVA_LONG, at + 80, width);
    ops.set(JAVA_LONG, at + 88, rows);
  }

  private void operand(long at, long address, long pitch, long rows) {
    ops.set(JAVA_LONG, at + 8, address);
    ops.set(JAVA_LONG, at + 16, pitch);
    ops.set(JAVA_LONG, at + 24, rows);
  }

  /** Submits all and forgets them; a {@code CUresult}. */
  int submit(CudaCopyPath path, long stream) {
    int copies = count;
    count = 0;
    if (copies == 0) {
      return CudaDriver.SUCCESS;
    }
    boolean v2 = path == CudaCopyPath.BATCH_V2 && driver.hasBatch3dV2();
    boolean batched = v2 || (path != CudaCopyPath.LOOP && driver.hasBatch3dV1());
    int code = CudaDriver.SUCCESS;
    for (int from = 0, to; from < copies && code == CudaDriver.SUCCESS; from = to) {
      to = batched ? endOfLikeOnes(from, copies) : from + 1;
      long at = (long) OP_BYTES * from;
      code = batched ? batch(v2, at, to - from, stream) : oneByOne(at, stream);
    }
    return code;
  }

  private int batch(boolean v2, long at, int copies, long stream) {
    MemorySegment likeOnes = at == 0 ? ops : ops.asSlice(at);
    return v2
        ? driver.batch3dV2(copies, likeOnes, stream)
        : driver.batch3dV1(copies, likeOnes, failIndex, stream);
  }

  /** Where those that follow have another width or height. */
  private int endOfLikeOnes(int from, int copies) {
    long at = (long) OP_BYTES * from;
    int to = from + 1;
    for (long next = at + OP_BYTES; to < copies && alike(at, next); next += OP_BYTES) {
      to++;
    }
    return to;
  }

  private boolean alike(long at, long other) {
    return ops.get(JAVA_LONG, at + 80) == ops.get(JAVA_LONG, other + 80)
        && ops.get(JAVA_LONG, at + 88) == ops.get(JAVA_LONG, other + 88);
  }

  private int oneByOne(long at, long stream) {
    half(0, at, load ? HOST : DEVICE);
    half(HALF_2D_BYTES, at + OPERAND_BYTES, load ? DEVICE : HOST);
    copy2d.set(JAVA_LONG, 112, ops.get(JAVA_LONG, at + 80));
    copy2d.set(JAVA_LONG, 120, ops.get(JAVA_LONG, at + 88));
    return driver.copy2d(copy2d, stream);
  }

  private void half(long to, long operand, int memory) {
    long address = ops.get(JAVA_LONG, operand + 8);
    copy2d.set(JAVA_INT, to + 16, memory);
    copy2d.set(JAVA_LONG, to + 24, memory == HOST ? address : 0);
    copy2d.set(JAVA_LONG, to + 32, memory == DEVICE ? address : 0);
    copy2d.set(JAVA_LONG, to + 48, ops.get(JAVA_LONG, operand + 16));
  }
}
