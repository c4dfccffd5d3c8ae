package io.flexkv.session;

import io.flexkv.cache.AvailableBlocks;
import io.flexkv.device.Direction;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.transfer.BlockGenerationReader;
import io.flexkv.transfer.FencePoint;
import io.flexkv.transfer.GenerationCheck;
import io.flexkv.transfer.RevokeWord;
import io.flexkv.transfer.TransferJob;
import org.jspecify.annotations.Nullable;

/**
 * One rank's part of a job, from its {@code Go} to its {@code JobDone}: what its starter said, and
 * what the mover answered. Cache thread only.
 */
final class PartJob {
  /** What tells parts apart. */
  record Key(long jobId, int part) {}

  /** How long a part may take whose worker named no limit. */
  private static final long DEFAULT_DEADLINE_MILLIS = 60_000;

  Session session;

  /** Whom {@code JobDone} goes to: the worker, or the scheduler that started all ranks. */
  Session starter;

  int kind;
  int fenceKind;
  int fenceIndex;
  long fenceSequence;
  long revokeIndex;
  long arrivedNanos;
  long deadlineNanos;

  /** A mover has it, or had it. */
  boolean started;

  /** The instance's namespace, and its generation, when a mover got it. */
  int namespace;

  int generation;

  /** Its starter took it back: what fails now was revoked. */
  boolean endedRevoked;

  long bytesMoved;
  int blocksOk;

  /**
   * A part that starts.
   *
   * @param session the worker whose memory it is about
   * @param starter who said "go": that worker, or its instance's scheduler
   */
  PartJob(Session session, Session starter, GoRecord go, long nowNanos) {
    this.session = session;
    this.starter = starter;
    take(go, nowNanos);
  }

  /** The rank came back and says "go" again for a part that has not begun. */
  void rebind(Session by, GoRecord go, long nowNanos) {
    session = by;
    starter = by;
    take(go, nowNanos);
  }

  private void take(GoRecord go, long nowNanos) {
    kind = go.kind();
    fenceKind = go.fenceKind();
    fenceIndex = (int) go.fenceIndex();
    fenceSequence = go.fenceSequence();
    revokeIndex = go.revokeIndex();
    arrivedNanos = nowNanos;
    long millis = go.deadlineMillis() == 0 ? DEFAULT_DEADLINE_MILLIS : go.deadlineMillis();
    deadlineNanos = nowNanos + millis * 1_000_000;
    endedRevoked = false;
  }

  boolean isLoad() {
    return kind == Protocol.KIND_LOAD;
  }

  /**
   * The mover's job, null if the part must not be copied any more.
   *
   * @param generations of the blocks as planned, null for a load
   */
  @Nullable TransferJob transfer(
      long jobId,
      int part,
      int[] gpuBlocks,
      HostSlots slots,
      long[] jobSlots,
      long @Nullable [] generations,
      AvailableBlocks available) {
    Instance instance = session.instance;
    boolean save = generations != null;
    if (session.ended
        || instance == null
        || part >= instance.partOffsets.length
        || save == isLoad()) {
      return null;
    }
    long[] addresses = new long[jobSlots.length];
    for (int i = 0; i < addresses.length; i++) {
      addresses[i] = slots.address(jobSlots[i]) + instance.partOffsets[part];
    }
    GenerationCheck check = null;
    if (generations != null) {
      Session scheduler = instance.scheduler;
      if (scheduler == null) {
        return null;
      }
      SessionMemory table = scheduler.memory;
      BlockGenerationReader reader = table::generation;
      check = new GenerationCheck(reader, generations);
    }
    return new TransferJob(
        jobId,
        part,
        save ? Direction.SAVE : Direction.LOAD,
        gpuBlocks,
        addresses,
        fenceKind == Protocol.FENCE_EVENT ? new FencePoint(fenceIndex, fenceSequence) : null,
        save ? RevokeWord.NONE : revokeWord(),
        deadlineNanos,
        check,
        available);
  }

  /** The worker's word for a load that it started itself. */
  private RevokeWord revokeWord() {
    SessionMemory words = session.memory;
    boolean has =
        starter == session
            && session.bridge == null
            && revokeIndex < words.geometry().revokeCount();
    return has
        ? new RevokeWord(words.file(), words.geometry().revokeOffset() + 8 * revokeIndex)
        : RevokeWord.NONE;
  }
}
