package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * Save engine blocks as chain blocks [first block, first block + n).
 *
 * <pre>
 *  8        16        24      28    32      34   36   40
 *  +--------+---------+-------+-----+-------+----+----+-----------------+---------------+
 *  | job    | request | first | n   | group | 0  | 0  | generations u64 | block ids u32 |
 *  | id u64 | id u64  | block | u32 | u16   |    |    | [n]             | [n]           |
 *  +--------+---------+-------+-----+-------+----+----+-----------------+---------------+
 * </pre>
 *
 * <p>A generation is the counter of the block-generation file that the plan saw: a block whose
 * counter differs once its copy has completed is dropped.
 */
public final class PlanSaveRecord extends RecordView {
  private static final int JOB = 8;
  private static final int REQUEST = 16;
  private static final int FIRST = 24;
  private static final int COUNT = 28;
  private static final int GROUP = 32;
  private static final int RESERVED = 36;
  private static final int GENERATIONS = 40;

  @Override
  int type() {
    return RecordDescriptor.TYPE_PLAN_SAVE;
  }

  @Override
  int fixedBytes() {
    return GENERATIONS;
  }

  @Override
  void checkBody() throws ProtocolException {
    PlanLoadRecord.checkPlanCount(u32(COUNT));
    checkLength(GENERATIONS + 12 * u32(COUNT));
  }

  public long jobId() {
    return u64(JOB);
  }

  public long requestId() {
    return u64(REQUEST);
  }

  /** Chain index of the first block. */
  public long firstBlock() {
    return u32(FIRST);
  }

  public int count() {
    return i32(COUNT);
  }

  public int group() {
    return u16(GROUP);
  }

  /** The block's counter as the plan saw it. */
  public long generation(int i) {
    return u64(GENERATIONS + 8L * i);
  }

  /** The engine's block id that holds chain block {@code firstBlock + i}; unsigned. */
  public int blockId(int i) {
    return i32(GENERATIONS + 8L * count() + 4L * i);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(
      MemorySegment to,
      long jobId,
      long requestId,
      int firstBlock,
      int[] blockIds,
      long[] generations,
      int group) {
    if (generations.length != blockIds.length) {
      throw new IllegalArgumentException(
          generations.length + " counters for " + blockIds.length + " blocks");
    }
    int length = GENERATIONS + 12 * blockIds.length;
    RecordDescriptor.encode(to, length, RecordDescriptor.TYPE_PLAN_SAVE);
    to.set(Wire.U64, JOB, jobId);
    to.set(Wire.U64, REQUEST, requestId);
    to.set(Wire.U32, FIRST, firstBlock);
    to.set(Wire.U32, COUNT, blockIds.length);
    to.set(Wire.U32, GROUP, group & 0xFFFF);
    to.set(Wire.U32, RESERVED, 0);
    WireArrays.copy(generations, to, GENERATIONS);
    WireArrays.copy(blockIds, to, GENERATIONS + 8L * generations.length);
    return length;
  }
}
