package io.flexkv.protocol;

import static io.flexkv.protocol.ProtocolException.check;

import java.lang.foreign.MemorySegment;

/**
 * Load chain blocks [first block, first block + n) into engine blocks under a lease.
 *
 * <pre>
 *  8        16        24       32           36      40    44      46   48
 *  +--------+---------+--------+------------+-------+-----+-------+----+----------------+
 *  | job    | request | lease  | generation | first | n   | group | 0  | block ids u32  |
 *  | id u64 | id u64  | id u64 | u32        | block | u32 | u16   |    | [n]            |
 *  +--------+---------+--------+------------+-------+-----+-------+----+----------------+
 * </pre>
 */
public final class PlanLoadRecord extends RecordView {
  private static final int JOB = 8;
  private static final int REQUEST = 16;
  private static final int LEASE = 24;
  private static final int GENERATION = 32;
  private static final int FIRST = 36;
  private static final int COUNT = 40;
  private static final int GROUP = 44;
  private static final int IDS = 48;

  @Override
  int type() {
    return RecordDescriptor.TYPE_PLAN_LOAD;
  }

  @Override
  int fixedBytes() {
    return IDS;
  }

  @Override
  void checkBody() throws ProtocolException {
    checkPlanCount(u32(COUNT));
    checkLength(IDS + 4 * u32(COUNT));
  }

  static void checkPlanCount(long count) throws ProtocolException {
    check(
        count > 0 && count <= Protocol.MAX_BLOCKS_A_PLAN,
        "%d blocks, at least 1 and at most %d",
        count,
        Protocol.MAX_BLOCKS_A_PLAN);
  }

  public long jobId() {
    return u64(JOB);
  }

  public long requestId() {
    return u64(REQUEST);
  }

  /** The lease that a lookup answered. */
  public long leaseId() {
    return u64(LEASE);
  }

  /** The namespace's generation as that answer told it. */
  public long generation() {
    return u32(GENERATION);
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

  /** The engine's block id that chain block {@code firstBlock + i} goes to; unsigned. */
  public int blockId(int i) {
    return i32(IDS + 4L * i);
  }

  /** Writes a record to the start of {@code to}; returns its length in bytes. */
  public static int encode(
      MemorySegment to,
      long jobId,
      long requestId,
      long leaseId,
      int generation,
      int firstBlock,
      int[] blockIds,
      int group) {
    int length = IDS + 4 * blockIds.length;
    RecordDescriptor.encode(to, length, RecordDescriptor.TYPE_PLAN_LOAD);
    to.set(Wire.U64, JOB, jobId);
    to.set(Wire.U64, REQUEST, requestId);
    to.set(Wire.U64, LEASE, leaseId);
    to.set(Wire.U32, GENERATION, generation);
    to.set(Wire.U32, FIRST, firstBlock);
    to.set(Wire.U32, COUNT, blockIds.length);
    to.set(Wire.U32, GROUP, group & 0xFFFF);
    WireArrays.copy(blockIds, to, IDS);
    return length;
  }
}
