package io.flexkv.tier.ssd;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.CompletableFuture;
import java.util.function.BiPredicate;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * A store without disks, for tests of what is built upon one. Nothing happens by itself: {@link
 * #step} does one block's access, {@link #run} all of them. One thread. {@link #restart} gives the
 * next life what this one has stored.
 */
public final class MemorySsdStore implements SsdStore {
  private record Block(SlotHeader header, MemorySegment bytes) {}

  private record Digest(long hi, long lo) {}

  private final long capacityBytes;
  private final int maxJobs;
  private final boolean withBytes;
  private final Map<Long, Long> held = new HashMap<>();
  private final Map<Long, Block> blocks;
  private final Map<Digest, Integer> generations;
  private final Map<Long, SsdJob> open = new LinkedHashMap<>();
  private final Map<Long, Integer> cursor = new HashMap<>();
  private final List<Long> cancelled = new ArrayList<>();
  private final Queue<SsdEvent> events = new ArrayDeque<>();
  private BiPredicate<SsdJob, Integer> fails = (job, block) -> false;
  private long used;
  private long nextSlot;
  private boolean lost;
  private boolean forgotten;

  /** What {@link #registerMemory} answers. */
  public volatile Supplier<CompletableFuture<Void>> registering =
      () -> CompletableFuture.completedFuture(null);

  /**
   * @param withBytes false where addresses are made up: then only identities are kept
   */
  public MemorySsdStore(long capacityBytes, int maxJobs, boolean withBytes) {
    this(capacityBytes, maxJobs, withBytes, new LinkedHashMap<>(), new HashMap<>(), 0);
  }

  private MemorySsdStore(
      long capacityBytes,
      int maxJobs,
      boolean withBytes,
      Map<Long, Block> blocks,
      Map<Digest, Integer> generations,
      long nextSlot) {
    this.capacityBytes = capacityBytes;
    this.maxJobs = maxJobs;
    this.withBytes = withBytes;
    this.blocks = blocks;
    this.generations = generations;
    this.nextSlot = nextSlot;
  }

  /** The store of the next life, with what is stored in this one. */
  public MemorySsdStore restart() {
    return new MemorySsdStore(capacityBytes, maxJobs, withBytes, blocks, generations, nextSlot);
  }

  /** From now on the access to a block fails where this says so. */
  public void failWhere(BiPredicate<SsdJob, Integer> condition) {
    fails = condition;
  }

  /** Takes the only directory out. */
  public void lose() {
    lost = true;
    for (SsdJob job : List.copyOf(open.values())) {
      end(job, SsdEvent.Outcome.FAILED, FULL, "directory lost");
    }
    events.add(new SsdEvent.DirectoryLost(0, "memory", "taken out"));
  }

  /** Number of jobs that have not ended. */
  public int openJobs() {
    return open.size();
  }

  @Override
  public long allocate(long slotBytes) {
    long bytes = rounded(slotBytes);
    if (lost || used + bytes > capacityBytes) {
      return FULL;
    }
    used += bytes;
    held.put(++nextSlot, bytes);
    return nextSlot;
  }

  @Override
  public void free(long slot) {
    Long bytes = held.remove(slot);
    if (bytes == null) {
      throw new IllegalArgumentException("slot %x is not held".formatted(slot));
    }
    used -= bytes;
    blocks.remove(slot);
  }

  private static long rounded(long bytes) {
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
  }

  @Override
  public long capacityBytes() {
    return capacityBytes;
  }

  @Override
  public long usedBytes() {
    return used;
  }

  @Override
  public int directoryOf(long slot) {
    return 0;
  }

  @Override
  public boolean submit(SsdJob job) {
    if (lost || open.size() == maxJobs) {
      return false;
    }
    for (int i = 0; i < job.blocks(); i++) {
      if (!held.containsKey(job.slot(i))) {
        throw new IllegalArgumentException("slot %x is not held".formatted(job.slot(i)));
      }
    }
    if (open.putIfAbsent(job.id(), job) != null) {
      throw new IllegalArgumentException("job " + job.id() + " is open");
    }
    cursor.put(job.id(), 0);
    return true;
  }

  @Override
  public boolean cancel(long jobId) {
    return open.containsKey(jobId) && cancelled.add(jobId);
  }

  /** All accesses of all jobs. */
  public void run() {
    while (step()) {}
  }

  /** The next block of the most urgent job; false if there is nothing to do. */
  public boolean step() {
    SsdJob job = null;
    for (SsdJob candidate : open.values()) {
      if (job == null || candidate.priority().compareTo(job.priority()) < 0) {
        job = candidate;
      }
    }
    if (job == null) {
      return false;
    }
    int block = cursor.merge(job.id(), 1, Integer::sum) - 1;
    if (cancelled.remove(job.id())) {
      end(job, SsdEvent.Outcome.CANCELLED, FULL, "cancelled");
    } else if (fails.test(job, block)) {
      end(job, SsdEvent.Outcome.FAILED, FULL, "injected at block " + block);
    } else if (!access(job, block)) {
      end(job, SsdEvent.Outcome.FAILED, job.slot(block), "mismatch at block " + block);
    } else {
      job.markDone(block);
      if (block + 1 == job.blocks()) {
        end(job, SsdEvent.Outcome.DONE, FULL, null);
      } else if (!job.isWrite()) {
        events.add(new SsdEvent.Progress(job, job.ready()));
      }
    }
    return true;
  }

  private boolean access(SsdJob job, int block) {
    long bytes = job.identity(block).payloadBytes();
    if (job.isWrite()) {
      MemorySegment copy =
          withBytes
              ? MemorySegment.ofArray(
                  memory(job.address(block), bytes).toArray(ValueLayout.JAVA_BYTE))
              : MemorySegment.NULL;
      blocks.put(job.slot(block), new Block(job.header(block), copy));
      return true;
    }
    Block found = blocks.get(job.slot(block));
    if (found == null || !found.header().identity().equals(job.identity(block))) {
      return false;
    }
    if (withBytes) {
      memory(job.address(block), bytes).copyFrom(found.bytes());
    }
    return true;
  }

  private static MemorySegment memory(long address, long bytes) {
    return MemorySegment.ofAddress(address).reinterpret(bytes);
  }

  private void end(SsdJob job, SsdEvent.Outcome outcome, long badSlot, @Nullable String cause) {
    open.remove(job.id());
    cursor.remove(job.id());
    events.add(new SsdEvent.Ended(job, outcome, job.ready(), true, badSlot, cause));
  }

  @Override
  public @Nullable SsdEvent poll() {
    return events.poll();
  }

  @Override
  public void forgotten(int directory) {
    forgotten = true;
  }

  @Override
  public int generation(long digestHi, long digestLo) {
    return generations.getOrDefault(new Digest(digestHi, digestLo), 0);
  }

  @Override
  public void resetNamespace(long digestHi, long digestLo, int generation) {
    generations.merge(new Digest(digestHi, digestLo), generation, Math::max);
    events.add(new SsdEvent.ResetDone(digestHi, digestLo, generation, !lost, null));
  }

  @Override
  public void recover(RecoverySink sink) {
    List<RecoverySink.Survivor> survivors = new ArrayList<>();
    blocks.forEach((slot, block) -> {
      SlotIdentity identity = block.header().identity();
      if (identity.generation() >= generation(identity.digestHi(), identity.digestLo())) {
        survivors.add(new RecoverySink.Survivor(slot, block.header()));
      }
    });
    blocks.keySet().retainAll(survivors.stream().map(RecoverySink.Survivor::slot).toList());
    for (RecoverySink.Survivor survivor : survivors) {
      long bytes = rounded(survivor.header().identity().payloadBytes());
      held.put(survivor.slot(), bytes);
      used += bytes;
    }
    Offering offering = new Offering(sink, survivors.size());
    for (int at = 0; at < survivors.size(); at += SurvivorBatch.CAPACITY) {
      SurvivorBatch batch = new SurvivorBatch(offering::answered);
      survivors
          .subList(at, Math.min(at + SurvivorBatch.CAPACITY, survivors.size()))
          .forEach(survivor -> batch.add(survivor.slot(), survivor.header()));
      try {
        sink.offer(batch);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return;
      }
    }
    offering.endIfOver();
  }

  /** Survivors that have not been answered for. */
  private final class Offering {
    private final RecoverySink sink;
    private final int offered;
    private int open;
    private long taken;

    Offering(RecoverySink sink, int offered) {
      this.sink = sink;
      this.offered = offered;
      this.open = offered;
    }

    void answered(SurvivorBatch batch) {
      for (int i = 0; i < batch.size(); i++) {
        if (batch.answer(i) == SurvivorBatch.Answer.TAKEN) {
          taken++;
        } else {
          free(batch.slot(i));
        }
      }
      open -= batch.size();
      endIfOver();
    }

    void endIfOver() {
      if (open == 0) {
        open = -1;
        sink.finished(new RecoverySink.Report(offered, taken, 0, 0, 0));
      }
    }
  }

  @Override
  public CompletableFuture<Void> registerMemory(List<MemorySegment> segments) {
    return registering.get();
  }

  @Override
  public List<DirectoryStatus> directories() {
    State state = lost ? State.LOST : State.SERVING;
    return List.of(new DirectoryStatus(Path.of("memory"), state, capacityBytes, used, null, false));
  }

  @Override
  public boolean reattach(Path directory) {
    boolean may = lost && forgotten && used == 0;
    if (may) {
      lost = false;
      forgotten = false;
    }
    return may;
  }

  @Override
  public SsdStats stats() {
    return new SsdStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  }

  @Override
  public void close() {}
}
