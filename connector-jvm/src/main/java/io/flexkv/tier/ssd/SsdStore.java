package io.flexkv.tier.ssd;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.jspecify.annotations.Nullable;

/**
 * Slots on disks.
 *
 * <p>Threads: {@link #allocate}, {@link #free}, {@link #submit}, {@link #cancel}, {@link #poll},
 * {@link #forgotten}, {@link #resetNamespace} and {@link #recover} are called by the cache thread
 * only and never wait for a disk. The rest is thread-safe.
 *
 * <p>What a slot holds is known by its {@link SlotIdentity}: a read that expects another one, or
 * whose bytes do not have the checksum of the write, is a miss.
 */
public interface SsdStore extends AutoCloseable {
  /** Answer of {@link #allocate} where there is no room; never a slot. */
  long FULL = -1;

  /** Alignment of addresses, and what slots are rounded up to. */
  int PAGE_BYTES = 4096;

  /** Largest slot. */
  long MAX_SLOT_BYTES = 1L << 30;

  /** Most blocks of one job. */
  int MAX_JOB_BLOCKS = 1 << 16;

  /**
   * Takes a slot in a healthy directory, the directories in turns.
   *
   * @param slotBytes room for the payload, rounded up to {@link #PAGE_BYTES}; few different values
   *     occur
   * @return the slot (positive; holds a counter, so that it differs from earlier ones in the same
   *     place), or {@link #FULL}: the cap is reached, what is free is cut for other sizes, all
   *     directories are out, or their recovery has not yet come so far
   */
  long allocate(long slotBytes);

  /**
   * Gives a slot back, when no job of it is open and the last one is drained.
   *
   * @throws IllegalArgumentException if it is not held
   */
  void free(long slot);

  /**
   * The hard cap over all {@link #directories}, lost ones included. Less than what was asked for
   * where some could not be opened: nobody takes over their shares.
   */
  long capacityBytes();

  /**
   * Makes ready for another cap: where that is larger, room for it is reserved on every disk, or on
   * none. Waits for the disks, some seconds at most; {@link #resizeOver} must follow, and {@link
   * #resize} may before it. Not the cache thread.
   *
   * @throws IOException if it cannot be; the text says why, nothing has changed, and nothing need
   *     follow
   */
  default void prepareResize(long bytes) throws IOException {
    throw new IOException("this store has one size");
  }

  /**
   * Has the cap that it was made ready for. What is held beyond it {@link #leaves}: when it has
   * been freed, files become shorter.
   */
  default void resize(long bytes) {
    throw new IllegalStateException("not prepared for " + bytes);
  }

  /** The other end of {@link #prepareResize}; any thread. */
  default void resizeOver() {}

  /** Whether slots are held that are wanted back. The cache thread. */
  default boolean shrinks() {
    return false;
  }

  /** Whether this slot, which is held, is one of those. The cache thread. */
  default boolean leaves(long slot) {
    return false;
  }

  /** Bytes of files that are to be given back. */
  default long surplusBytes() {
    return 0;
  }

  /** Bytes of the slots that are held, rounding included. */
  long usedBytes();

  /** The directory in which a slot lies: index into {@link #directories}. */
  int directoryOf(long slot);

  /**
   * Hands a job over.
   *
   * @return false if a queue is full, a directory of it is out or stalled, or the store is closed:
   *     nothing has happened, drop the work
   */
  boolean submit(SsdJob job);

  /**
   * Asks for the early end of a job; its {@link SsdEvent.Ended} still comes. Blocks that are
   * already being written may still be stored.
   *
   * @return whether the job was open
   */
  boolean cancel(long jobId);

  /** The next news, null if there is none; the wake-up given at construction tells of new ones. */
  @Nullable SsdEvent poll();

  /**
   * The other end of {@link SsdEvent.DirectoryLost}: nothing that lay in it is known any more, nor
   * is anything looked for that does. Only now may another directory take its place and its index
   * ({@link #reattach}), or that one's blocks were taken for those which are lost.
   */
  void forgotten(int directory);

  /** The generation that was recorded for a namespace, 0 if none was. */
  int generation(long digestHi, long digestLo);

  /**
   * Makes a higher generation of a namespace durable; the answer is {@link SsdEvent.ResetDone}. No
   * block of a lower one is ever offered by a later recovery.
   */
  void resetNamespace(long digestHi, long digestLo, int generation);

  /**
   * Begins to hand out what survived, in the background. To be called once, before the first {@link
   * #allocate}.
   */
  void recover(RecoverySink sink);

  /**
   * Tells of the memory that jobs will use, once it has its pages: io_uring then reads and writes
   * it without pinning it for each access. Goes on without where the system forbids it. In the
   * background; for a large pool that may take a while.
   *
   * @return done when no directory has other memory registered that it was told of before;
   *     exceptionally done if that is not sure
   */
  CompletableFuture<Void> registerMemory(List<MemorySegment> segments);

  /** How the directories are, in the order of the configuration. */
  List<DirectoryStatus> directories();

  /**
   * Opens a lost directory again, empty, in the background. Where that fails it stays lost, its
   * cause says why, and it may be tried again.
   *
   * @return false if it is not one of ours, or not out, or not {@link #forgotten} yet, or still has
   *     slots held or accesses in flight
   */
  boolean reattach(Path directory);

  /** What was done so far. */
  SsdStats stats();

  /** Ends open jobs, makes durable what is stored, and unlocks the directories. */
  @Override
  void close();

  /**
   * A directory.
   *
   * @param state as of now
   * @param cause why it is not {@link State#SERVING}, else null
   * @param attaching whether it is out and about to be attached again
   */
  record DirectoryStatus(
      Path path,
      State state,
      long capacityBytes,
      long usedBytes,
      @Nullable String cause,
      boolean attaching) {}

  /** Whether a directory takes part. */
  enum State {
    /** Its headers are being read. */
    RECOVERING,
    SERVING,
    /** An access has been under way for too long: nothing new is sent there until it is back. */
    STALLED,
    /** Taken out after errors. */
    LOST
  }
}
