package io.flexkv.transfer;

import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import io.flexkv.protocol.ProofPattern;
import java.lang.foreign.MemorySegment;
import java.util.Objects;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;

/**
 * Proves a registration before it is trusted: reads blocks that the engine filled with {@link
 * ProofPattern}, and writes patterns for the engine to check, over the path that jobs take later (a
 * {@link Mover} on the same {@link DeviceMemory}, the same slices, by the same calls).
 *
 * <p>Blocking, at most for the time limit; for a control thread, not the cache's.
 */
public final class LayoutProof {
  /** Memory that a device which did not end its copies may still write. */
  private static final Queue<MemorySegment> NEVER_FREED = new ConcurrentLinkedQueue<>();

  private final DeviceMemory memory;
  private final MemorySegment scratch;
  private final long timeoutNanos;

  /**
   * @param scratch native memory of at least one block of the rank, of nobody else
   * @param timeoutNanos for each call of {@link #read} or {@link #write}
   */
  public LayoutProof(DeviceMemory memory, MemorySegment scratch, long timeoutNanos) {
    if (scratch.byteSize() < memory.layout().partBytes()) {
      throw new IllegalArgumentException(
          "layout proof: scratch of %d bytes, a block has %d"
              .formatted(scratch.byteSize(), memory.layout().partBytes()));
    }
    this.memory = memory;
    this.scratch = scratch;
    this.timeoutNanos = timeoutNanos;
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

  private interface Before {
    void accept(int block);
  }

  private interface After {
    String apply(int block);
  }

  private String run(Direction direction, int[] blocks, Before before, After after)
      throws DeviceException {
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
    long deadline = System.nanoTime() + timeoutNanos;
    boolean drained = false;
    try {
      for (int block : blocks) {
        before.accept(block);
        copyOne(mover, completions, posted, direction, block, deadline);
        String difference = after.apply(block);
        if (!difference.isEmpty()) {
          return difference;
        }
      }
      return "";
    } finally {
      drained = mover.stop(timeoutNanos);
      if (drained) {
        proved.close();
      } else {
        NEVER_FREED.add(scratch);
        System.getLogger(LayoutProof.class.getName())
            .log(System.Logger.Level.ERROR, "layout proof: the device did not end its copies");
      }
    }
  }

  private void copyOne(
      Mover mover,
      CompletionQueue completions,
      Semaphore posted,
      Direction direction,
      int block,
      long deadline)
      throws DeviceException {
    TransferJob job =
        new TransferJob(
            1,
            0,
            direction,
            new int[] {block},
            new long[] {scratch.address()},
            null,
            RevokeWord.NONE,
            deadline,
            null);
    boolean came = mover.submit(job) && await(posted, deadline);
    if (!came) {
      throw new DeviceException(
          DeviceException.Kind.COPY,
          "layout proof: %s of block %d did not end within %d ms"
              .formatted(direction, block, timeoutNanos / 1_000_000));
    }
    Completion completion = Objects.requireNonNull(completions.poll());
    if (completion.status() != Completion.Status.OK) {
      throw new DeviceException(
          DeviceException.Kind.COPY,
          "layout proof: %s of block %d: %s".formatted(direction, block, completion.cause()));
    }
  }

  private static boolean await(Semaphore posted, long deadline) {
    try {
      return posted.tryAcquire(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }
}
