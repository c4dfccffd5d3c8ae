package io.flexkv.transfer;

import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import io.flexkv.protocol.ProofPattern;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;

/**
 * Proves a registration before it is trusted: reads blocks that the engine filled with {@link
 * ProofPattern}, and writes patterns for the engine to check, over the path that jobs take later (a
 * {@link Mover} on the same {@link DeviceMemory}, the same slices, by the same calls).
 *
 * <p><b>Its end.</b> The engine waits for a proof only so long, and serves from these blocks
 * afterwards. So no slice is submitted after the deadline, which is the engine's own word on the
 * clock that both read, nor once {@code over} says that the engine has gone. What was submitted by
 * then is drained, within a bound; if that did not do, {@link #drained} is false, and whoever asked
 * must be told that these blocks may still be written. A process that is stopped between the look
 * at the clock and the call that submits writes late all the same: which is why an engine that got
 * no answer goes on only once this process has ended.
 *
 * <p>Blocking, until the deadline, the time for draining and at most one second more; for a thread
 * of its own. One thread.
 */
public final class LayoutProof {
  private static final long DRAIN_NANOS = 5_000_000_000L;
  private static final long LOOK_NANOS = 5_000_000;

  /** Memory that a device which has not ended its copies may still write. */
  private static final Queue<MemorySegment> NEVER_FREED = new ConcurrentLinkedQueue<>();

  private final DeviceMemory memory;
  private final MemorySegment scratch;
  private final long deadlineNanos;
  private final long drainNanos;
  private final BooleanSupplier over;
  private final List<Late> late = new ArrayList<>();

  /** What a call left behind whose copies had not ended in time. */
  private record Late(Mover mover, DeviceMemory proved) {}

  /**
   * A proof that nobody takes back.
   *
   * @param timeoutNanos from now on, for all calls together
   */
  public LayoutProof(DeviceMemory memory, MemorySegment scratch, long timeoutNanos) {
    this(memory, scratch, System.nanoTime() + timeoutNanos, DRAIN_NANOS, () -> false);
  }

  /**
   * @param scratch native memory of at least one block of the rank, of nobody else
   * @param deadlineNanos on the clock of {@link System#nanoTime}: no slice is submitted later
   * @param drainNanos how long the device may take for what was submitted until then
   * @param over whether nobody wants it any more; asked every few milliseconds
   */
  public LayoutProof(
      DeviceMemory memory,
      MemorySegment scratch,
      long deadlineNanos,
      long drainNanos,
      BooleanSupplier over) {
    if (scratch.byteSize() < memory.layout().partBytes()) {
      throw new IllegalArgumentException(
          "layout proof: scratch of %d bytes, a block has %d"
              .formatted(scratch.byteSize(), memory.layout().partBytes()));
    }
    this.memory = memory;
    this.scratch = scratch;
    this.deadlineNanos = deadlineNanos;
    this.drainNanos = drainNanos;
    this.over = over;
  }

  /**
   * Reads blocks and compares them with the pattern.
   *
   * @return an empty text if all are equal, else the first difference
   * @throws DeviceException if a block could not be read
   */
  public String read(long seed, int[] blocks) throws DeviceException {
    return run(
        Direction.SAVE,
        blocks,
        block -> {},
        block -> ProofImage.difference(scratch, memory.layout(), seed, block));
  }

  /**
   * Writes the pattern into blocks.
   *
   * @throws DeviceException if a block could not be written
   */
  public void write(long seed, int[] blocks) throws DeviceException {
    run(
        Direction.LOAD,
        blocks,
        block -> ProofImage.fill(scratch, memory.layout(), seed, block),
        block -> "");
  }

  /** Whether no copy of the calls made so far can touch memory any more. */
  public boolean drained() {
    return late.isEmpty();
  }

  /**
   * Waits, without limit, until that is so. Any thread, after the calls.
   *
   * @return false if it will never be known: the device memory must not be closed
   */
  public boolean awaitDrained() {
    for (Late call : late) {
      if (!call.mover().awaitDrained()) {
        return false;
      }
      call.proved().close();
      NEVER_FREED.remove(scratch);
    }
    late.clear();
    return true;
  }

  private interface Before {
    void accept(int block);
  }

  private interface After {
    String apply(int block);
  }

  private String run(Direction direction, int[] blocks, Before before, After after)
      throws DeviceException {
    requireTime(direction, blocks[0]);
    Semaphore posted = new Semaphore(0);
    CompletionQueue completions = new CompletionQueue(blocks.length + 1, posted::release);
    DeviceMemory proved = memory.withHost(scratch);
    Mover mover;
    try {
      mover = Mover.start("proof", proved, FenceRing.none(), completions, new MoveLimits());
    } catch (DeviceException | RuntimeException e) {
      proved.close();
      throw e;
    }
    try {
      for (int block : blocks) {
        before.accept(block);
        copyOne(mover, completions, posted, direction, block);
        String difference = after.apply(block);
        if (!difference.isEmpty()) {
          return difference;
        }
      }
      return "";
    } finally {
      stop(mover, proved);
    }
  }

  private void stop(Mover mover, DeviceMemory proved) {
    if (mover.stop(drainNanos)) {
      proved.close();
    } else {
      late.add(new Late(mover, proved));
      NEVER_FREED.add(scratch);
      System.getLogger(LayoutProof.class.getName())
          .log(System.Logger.Level.ERROR, "layout proof: the device did not end its copies");
    }
  }

  private void requireTime(Direction direction, int block) throws DeviceException {
    if (over.getAsBoolean()) {
      throw new DeviceException(
          DeviceException.Kind.GONE,
          "layout proof: taken back before the %s of block %d".formatted(direction, block));
    }
    long late = System.nanoTime() - deadlineNanos;
    if (late >= 0) {
      throw new DeviceException(
          DeviceException.Kind.COPY,
          "layout proof: its time was up %d ms before the %s of block %d"
              .formatted(late / 1_000_000, direction, block));
    }
  }

  private void copyOne(
      Mover mover, CompletionQueue completions, Semaphore posted, Direction direction, int block)
      throws DeviceException {
    requireTime(direction, block);
    TransferJob job =
        new TransferJob(
            1,
            0,
            direction,
            new int[] {block},
            new long[] {scratch.address()},
            null,
            RevokeWord.NONE,
            deadlineNanos,
            null);
    if (!mover.submit(job) || !await(posted)) {
      throw new DeviceException(
          DeviceException.Kind.COPY,
          "layout proof: %s of block %d %s"
              .formatted(
                  direction,
                  block,
                  over.getAsBoolean() ? "was taken back" : "did not end in time"));
    }
    Completion completion = Objects.requireNonNull(completions.poll());
    if (completion.status() != Completion.Status.OK) {
      throw new DeviceException(
          DeviceException.Kind.COPY,
          "layout proof: %s of block %d: %s".formatted(direction, block, completion.cause()));
    }
  }

  private boolean await(Semaphore posted) {
    try {
      while (!posted.tryAcquire(LOOK_NANOS, TimeUnit.NANOSECONDS)) {
        if (over.getAsBoolean() || System.nanoTime() - deadlineNanos >= 0) {
          return posted.tryAcquire();
        }
      }
      return true;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }
}
