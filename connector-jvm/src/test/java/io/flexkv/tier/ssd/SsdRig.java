package io.flexkv.tier.ssd;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;

/**
 * An engine on real files, host memory for its jobs, and the cache thread's part played by hand.
 */
final class SsdRig implements AutoCloseable {
  static final long PATIENCE_NANOS = TimeUnit.SECONDS.toNanos(30);
  static final long NAMESPACE_HI = 0x1111222233334444L;
  static final long NAMESPACE_LO = 0x5555666677778888L;

  private final Arena arena = Arena.ofShared();
  private final MemorySegment memory;
  private final Semaphore wakeUps = new Semaphore(0);
  final List<SsdEvent> events = new ArrayList<>();
  final Map<Long, SlotHeader> recovered = new LinkedHashMap<>();
  private final Set<Long> keys = new HashSet<>();
  final SsdEngine engine;
  RecoverySink.Report report;
  private long nextJob = 1;

  /** What else threads of the store do when they have news. */
  volatile Runnable onNews = () -> {};

  private SsdRig(SsdOptions options, SsdTuning tuning, long memoryBytes) throws IOException {
    memory = arena.allocate(memoryBytes, SsdStore.PAGE_BYTES);
    engine = SsdOpening.open(options, tuning, this::wakeUp);
  }

  private void wakeUp() {
    wakeUps.release();
    onNews.run();
  }

  /** An assertion without a library: processes that are killed begin with this class. */
  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  static SsdTuning tuning() {
    return SsdTuning.defaults().withExtentBytes(256 << 10);
  }

  static SsdOptions options(int ringEntries, long capacity, Path... directories) {
    return new SsdOptions(List.of(directories), capacity, 0, ringEntries, 0, 4, 0);
  }

  /** Opens, and takes over what survived. */
  static SsdRig open(SsdOptions options, SsdTuning tuning) throws IOException {
    return open(options, tuning, survivor -> true);
  }

  static SsdRig open(SsdOptions options, SsdTuning tuning, Predicate<RecoverySink.Survivor> accepts)
      throws IOException {
    SsdRig rig = new SsdRig(options, tuning, 32 << 20);
    rig.recover(accepts);
    return rig;
  }

  private void recover(Predicate<RecoverySink.Survivor> accepts) {
    CountDownLatch finished = new CountDownLatch(1);
    engine.recover(
        new RecoverySink() {
          @Override
          public void offer(SurvivorBatch batch) {
            check(batch.size() <= SurvivorBatch.CAPACITY, "a batch of " + batch.size());
            for (int i = 0; i < batch.size(); i++) {
              batch.answer(i, answer(new Survivor(batch.slot(i), batch.header(i)), accepts));
            }
            batch.answered();
          }

          @Override
          public void finished(Report done) {
            report = done;
            finished.countDown();
          }
        });
    try {
      check(finished.await(PATIENCE_NANOS, TimeUnit.NANOSECONDS), "recovery takes too long");
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  /** As the cache core does. */
  private SurvivorBatch.Answer answer(
      RecoverySink.Survivor survivor, Predicate<RecoverySink.Survivor> accepts) {
    SlotHeader header = survivor.header();
    SlotIdentity identity = header.identity();
    if (header.hasParent() && !keys.contains(header.parentLo())) {
      return SurvivorBatch.Answer.NO_PARENT;
    }
    if (!accepts.test(survivor) || !keys.add(identity.keyLo())) {
      return SurvivorBatch.Answer.REFUSED;
    }
    recovered.put(survivor.slot(), header);
    return SurvivorBatch.Answer.TAKEN;
  }

  // ---- blocks

  /** The header of a block whose bytes follow from its key and generation. */
  static SlotHeader header(long key, long parent, int generation, long payloadBytes) {
    return header(key, parent, generation, payloadBytes, 0);
  }

  static SlotHeader header(
      long key, long parent, int generation, long payloadBytes, int eventBytes) {
    SlotIdentity identity =
        new SlotIdentity(NAMESPACE_HI, NAMESPACE_LO, generation, 0, ~key, key, 77, payloadBytes);
    byte[] event = new byte[eventBytes];
    new SplittableRandom(key).nextBytes(event);
    boolean hasParent = parent != 0;
    return new SlotHeader(identity, hasParent, hasParent ? ~parent : 0, parent, 16, 4711, event);
  }

  /** Host memory of page {@code page}. */
  long address(int page) {
    return memory.address() + (long) page * SsdStore.PAGE_BYTES;
  }

  private static void fill(long address, SlotIdentity identity, boolean check) {
    long bytes = identity.payloadBytes();
    MemorySegment block = MemorySegment.ofAddress(address).reinterpret(bytes);
    SplittableRandom random = new SplittableRandom(identity.keyLo() * 31 + identity.generation());
    for (long at = 0; at + 8 <= bytes; at += 8) {
      long word = random.nextLong();
      if (!check) {
        block.set(ValueLayout.JAVA_LONG_UNALIGNED, at, word);
      } else if (block.get(ValueLayout.JAVA_LONG_UNALIGNED, at) != word) {
        throw new AssertionError("wrong bytes at %d of %s".formatted(at, identity));
      }
    }
  }

  static void fillBlock(long address, SlotIdentity identity) {
    fill(address, identity, false);
  }

  static void checkBlock(long address, SlotIdentity identity) {
    fill(address, identity, true);
  }

  /** Writes blocks into new slots; the slots. */
  long[] write(List<SlotHeader> headers) {
    long[] slots = new long[headers.size()];
    for (int i = 0; i < slots.length; i++) {
      slots[i] = engine.allocate(headers.get(i).identity().payloadBytes());
      check(slots[i] > 0, "no slot for block " + i);
    }
    SsdEvent.Ended end = await(submitWrite(slots, headers));
    check(end.outcome() == SsdEvent.Outcome.DONE, "write: " + end);
    check(end.job().stored().cardinality() == slots.length, "stored: " + end.job().stored());
    return slots;
  }

  long write(SlotHeader header) {
    return write(List.of(header))[0];
  }

  SsdJob submitWrite(long[] slots, List<SlotHeader> headers) {
    long[] addresses = addresses(headers.stream().map(SlotHeader::identity).toList());
    for (int i = 0; i < slots.length; i++) {
      fillBlock(addresses[i], headers.get(i).identity());
    }
    SsdJob job = SsdJob.write(nextJob++, slots, addresses, headers);
    check(engine.submit(job), "refused");
    return job;
  }

  private long[] addresses(List<SlotIdentity> identities) {
    long[] addresses = new long[identities.size()];
    long at = memory.address();
    for (int i = 0; i < addresses.length; i++) {
      addresses[i] = at;
      at += SsdEngine.rounded(identities.get(i).payloadBytes());
    }
    check(at <= memory.address() + memory.byteSize(), "host memory is too small");
    return addresses;
  }

  SsdJob readJob(long[] slots, List<SlotIdentity> identities, long deadline) {
    return SsdJob.read(
        nextJob++, SsdJob.Priority.READ_LIVE, slots, addresses(identities), identities, deadline);
  }

  /** Reads a chain; leading blocks that are ready have been compared with what they should be. */
  SsdEvent.Ended read(long[] slots, List<SlotIdentity> identities) {
    memory.fill((byte) 0x5A);
    SsdJob job = readJob(slots, identities, SsdJob.NO_DEADLINE);
    check(engine.submit(job), "refused");
    SsdEvent.Ended end = await(job);
    check(end.drained(), "not drained: " + end);
    for (int i = 0; i < end.ready(); i++) {
      checkBlock(job.address(i), job.identity(i));
    }
    return end;
  }

  SsdEvent.Ended read(long slot, SlotIdentity identity) {
    return read(new long[] {slot}, List.of(identity));
  }

  // ---- events

  /** The next event; fails if none comes. */
  SsdEvent next() {
    long deadline = System.nanoTime() + PATIENCE_NANOS;
    while (true) {
      SsdEvent event = engine.poll();
      if (event != null) {
        events.add(event);
        return event;
      }
      try {
        boolean woken =
            wakeUps.tryAcquire(Math.max(1, deadline - System.nanoTime()), TimeUnit.NANOSECONDS);
        check(woken, "no event within the time");
      } catch (InterruptedException e) {
        throw new IllegalStateException(e);
      }
    }
  }

  SsdEvent.Ended await(SsdJob job) {
    while (true) {
      if (next() instanceof SsdEvent.Ended ended && ended.job() == job) {
        return ended;
      }
    }
  }

  <E extends SsdEvent> E await(Class<E> kind) {
    while (true) {
      SsdEvent event = next();
      if (kind.isInstance(event)) {
        return kind.cast(event);
      }
    }
  }

  /** Waits until something of the engine is so. */
  void until(java.util.function.BooleanSupplier condition) {
    long deadline = System.nanoTime() + PATIENCE_NANOS;
    while (!condition.getAsBoolean()) {
      check(System.nanoTime() - deadline < 0, "waited in vain");
      try {
        Thread.sleep(2);
      } catch (InterruptedException e) {
        throw new IllegalStateException(e);
      }
    }
  }

  @Override
  public void close() {
    engine.close();
    arena.close();
  }
}
