package io.flexkv.tier.ssd;

import java.util.BitSet;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicIntegerArray;

/**
 * Blocks to read from their slots, or to write to them.
 *
 * <p>A <b>read</b> is a chain: blocks become ready in the order of the list, and the first one that
 * cannot be had ends the job, for what comes after it is of no use. {@link #ready} grows while the
 * rest is still on disk; any thread may ask, and what it says is visible to who asked: block {@code
 * i < ready()} is whole and verified at its address.
 *
 * <p>A <b>write</b> stores each block by itself: {@link #stored} says which came through.
 *
 * <p>Addresses are multiples of 4096; at each there is room for the payload rounded up to 4096
 * bytes (a read fills it up, a write sends what is there). Slots and addresses belong to the store
 * from an accepted {@link SsdStore#submit} to the event that says {@code drained}.
 */
public final class SsdJob {
  /** What goes first, in this order. */
  public enum Priority {
    /** A request waits for it. */
    READ_LIVE,
    WRITE,
    /** Nobody has asked for it yet. */
    READ_SPECULATIVE
  }

  /** A read without deadline. */
  public static final long NO_DEADLINE = Long.MAX_VALUE;

  private final long id;
  private final Priority priority;
  private final long[] slots;
  private final long[] addresses;
  private final List<SlotIdentity> identities;
  private final List<SlotHeader> headers;
  private final long deadlineNanos;

  /** Word i: block i is ready (read) or stored (write). */
  private final AtomicIntegerArray done;

  private volatile int ready;
  private final AtomicBoolean queued = new AtomicBoolean();

  private SsdJob(
      long id,
      Priority priority,
      long[] slots,
      long[] addresses,
      List<SlotIdentity> identities,
      List<SlotHeader> headers,
      long deadlineNanos) {
    int blocks = slots.length;
    if (blocks < 1 || blocks > SsdStore.MAX_JOB_BLOCKS) {
      throw new IllegalArgumentException(
          "job %d of %d blocks, wanted 1 to %d".formatted(id, blocks, SsdStore.MAX_JOB_BLOCKS));
    }
    if (addresses.length != blocks || identities.size() != blocks) {
      throw new IllegalArgumentException(
          "job %d: slots=%d addresses=%d identities=%d, wanted as many of each"
              .formatted(id, blocks, addresses.length, identities.size()));
    }
    for (long address : addresses) {
      if (address == 0 || address % SsdStore.PAGE_BYTES != 0) {
        throw new IllegalArgumentException(
            "job %d: address 0x%x, wanted a multiple of %d"
                .formatted(id, address, SsdStore.PAGE_BYTES));
      }
    }
    this.id = id;
    this.priority = priority;
    this.slots = slots;
    this.addresses = addresses;
    this.identities = identities;
    this.headers = headers;
    this.deadlineNanos = deadlineNanos;
    this.done = new AtomicIntegerArray(blocks);
  }

  /**
   * A chain to read.
   *
   * @param id the caller's; unique among the jobs that have not ended
   * @param priority {@link Priority#READ_LIVE} or {@link Priority#READ_SPECULATIVE}
   * @param deadlineNanos of the store's clock ({@link System#nanoTime} unless injected), or {@link
   *     #NO_DEADLINE}
   */
  public static SsdJob read(
      long id,
      Priority priority,
      long[] slots,
      long[] addresses,
      List<SlotIdentity> expected,
      long deadlineNanos) {
    if (priority == Priority.WRITE) {
      throw new IllegalArgumentException("job " + id + ": a read with the priority of a write");
    }
    return new SsdJob(
        id,
        priority,
        slots.clone(),
        addresses.clone(),
        List.copyOf(expected),
        List.of(),
        deadlineNanos);
  }

  /** Blocks to write; none of the slots may hold a block that somebody still reads. */
  public static SsdJob write(long id, long[] slots, long[] addresses, List<SlotHeader> headers) {
    List<SlotIdentity> identities = headers.stream().map(SlotHeader::identity).toList();
    return new SsdJob(
        id,
        Priority.WRITE,
        slots.clone(),
        addresses.clone(),
        identities,
        List.copyOf(headers),
        NO_DEADLINE);
  }

  /** The caller's number. */
  public long id() {
    return id;
  }

  public Priority priority() {
    return priority;
  }

  public boolean isWrite() {
    return priority == Priority.WRITE;
  }

  public int blocks() {
    return slots.length;
  }

  public long slot(int block) {
    return slots[block];
  }

  public long address(int block) {
    return addresses[block];
  }

  public SlotIdentity identity(int block) {
    return identities.get(block);
  }

  /** The header of a block to write. */
  public SlotHeader header(int block) {
    return headers.get(block);
  }

  public long deadlineNanos() {
    return deadlineNanos;
  }

  /** Read: leading blocks that are in memory and verified. Write: leading blocks stored. */
  public int ready() {
    return ready;
  }

  /** The blocks that are in memory (read) or found again by a later read (write). Any thread. */
  public BitSet stored() {
    BitSet blocks = new BitSet(slots.length);
    for (int i = 0; i < slots.length; i++) {
      if (done.getAcquire(i) != 0) {
        blocks.set(i);
      }
    }
    return blocks;
  }

  /** Marks a block; true if {@link #ready} grew by it. Any I/O thread. */
  boolean markDone(int block) {
    done.setRelease(block, 1);
    synchronized (done) {
      int before = ready;
      int now = before;
      while (now < slots.length && done.getAcquire(now) != 0) {
        now++;
      }
      ready = now;
      return now > before;
    }
  }

  /** Whether the caller's thread has to queue it for news: it was not queued yet. */
  boolean enqueue() {
    return queued.compareAndSet(false, true);
  }

  /** News are being taken; what comes from now on queues it again. */
  void dequeued() {
    queued.set(false);
  }
}
