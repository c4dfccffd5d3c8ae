package io.flexkv.sidecar;

import io.flexkv.ffm.DirectFile;
import io.flexkv.tier.ssd.RecoverySink;
import io.flexkv.tier.ssd.SlotHeader;
import io.flexkv.tier.ssd.SlotIdentity;
import io.flexkv.tier.ssd.SsdEngine;
import io.flexkv.tier.ssd.SsdEvent;
import io.flexkv.tier.ssd.SsdJob;
import io.flexkv.tier.ssd.SsdOptions;
import io.flexkv.tier.ssd.SsdStore;
import io.flexkv.tier.ssd.SurvivorBatch;
import io.flexkv.transfer.BenchRecords;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * What comes through the SSD tier, checksums and headers included, of what the disk does when it is
 * read and written by bare {@code O_DIRECT} calls of {@value #RAW_THREADS} threads: the same bytes,
 * in the same order, in turns, {@value #ROUNDS} of each. The ratio is the median of the ratios of
 * neighbours in time, for a disk that others use too has other rates from minute to minute. And how
 * long a start takes.
 *
 * <p>Usage: {@code java -cp flexkv-sidecar.jar io.flexkv.sidecar.SsdBench records.json folder
 * [part…]} with the parts {@code io_uring}, {@code threads} and {@code start}, all of them if none
 * is named; it needs {@value #DISK_GB} GB there for some minutes.
 */
public final class SsdBench {
  static final int DISK_GB = 7;
  static final int RAW_THREADS = 8;
  private static final long ROUND_BYTES = 128L << 20;
  private static final long STORE_BYTES = 2L << 30;
  private static final long RESTART_BYTES = 4L << 30;
  private static final int ROUNDS = 31;
  private static final List<String> PARTS = List.of("io_uring", "threads", "start");
  private static final double GB = 1e9;
  private static final double GIB = 1L << 30;
  private static final long NAMESPACE = 0x51DEL;

  private final BenchRecords records;
  private final Path folder;
  private final MemorySegment memory;
  private final Semaphore news = new Semaphore(0);
  private long nextJob = 1;
  private long nextKey = 1;

  private SsdBench(Path folder, List<String> parts, Arena arena) throws IOException {
    String command = "python tests/bench/ssd.py " + String.join(" ", parts);
    String load = Files.readString(Path.of("/proc/loadavg")).split(" ", 2)[0];
    this.records =
        new BenchRecords(command, "%s, load %s at start".formatted(BenchRecords.machine(), load));
    this.folder = folder;
    this.memory = arena.allocate(ROUND_BYTES, SsdStore.PAGE_BYTES);
    Random random = new Random(1);
    for (long at = 0; at < ROUND_BYTES; at += 8) {
      memory.set(ValueLayout.JAVA_LONG, at, random.nextLong());
    }
  }

  public static void main(String[] args) throws Exception {
    LogSetup.silence();
    List<String> named = List.of(args).subList(2, args.length);
    if (!PARTS.containsAll(named)) {
      throw new IllegalArgumentException("parts %s, there are %s".formatted(named, PARTS));
    }
    List<String> parts = named.isEmpty() ? PARTS : named;
    Path folder = Files.createTempDirectory(Path.of(args[1]), "flexkv-ssd-bench-");
    try (Arena arena = Arena.ofShared()) {
      SsdBench bench = new SsdBench(folder, parts, arena);
      for (String part : parts) {
        switch (part) {
          case "io_uring" -> bench.throughput(64);
          case "threads" -> bench.throughput(0);
          default -> bench.restart();
        }
      }
      bench.records.write(Path.of(args[0]));
    } finally {
      delete(folder);
    }
  }

  private static void delete(Path folder) throws IOException {
    try (var paths = Files.walk(folder)) {
      for (Path path : paths.sorted(Collections.reverseOrder()).toList()) {
        Files.delete(path);
      }
    }
  }

  // ---- throughput

  private void throughput(int ringEntries) throws Exception {
    Path directory = folder.resolve("store-" + ringEntries);
    SsdOptions options =
        new SsdOptions(List.of(directory), STORE_BYTES, 0, ringEntries, 0, RAW_THREADS, 0);
    try (SsdEngine engine = SsdEngine.open(options, news::release);
        DirectFile raw = DirectFile.openOrCreate(folder.resolve("raw"))) {
      recover(engine);
      var _ = engine.registerMemory(List.of(memory));
      raw.reserve(STORE_BYTES);
      String how = ringEntries > 0 ? "io_uring" : RAW_THREADS + " threads";
      for (int kib : new int[] {256, 1024, 4096}) {
        measure(engine, raw, kib << 10, how);
      }
    }
    delete(directory);
  }

  private void measure(SsdEngine engine, DirectFile raw, int size, String how)
      throws InterruptedException {
    int count = (int) (ROUND_BYTES / size);
    // Everything is written once before, for the first write to reserved room costs more.
    long[] slots = allocate(engine, (int) (STORE_BYTES * 3 / 4 / ROUND_BYTES) * count, size);
    List<SlotHeader> headers = new ArrayList<>();
    for (int at = 0; at < slots.length; at += count) {
      headers.addAll(write(engine, Arrays.copyOfRange(slots, at, at + count), size));
      raw(raw, true, sequence(at, count), size);
    }
    for (boolean scattered : new boolean[] {false, true}) {
      Pairs reads = new Pairs();
      for (int round = 0; round < ROUNDS; round++) {
        int[] order =
            scattered
                ? shuffled(slots.length, count, round)
                : sequence(round % (slots.length / count) * count, count);
        reads.add(
            round, () -> read(engine, slots, headers, order), () -> raw(raw, false, order, size));
      }
      String pattern = scattered ? "scattered" : "sequential";
      reads.record(
          "SSD read, %s, %d KiB, checksums on, %s".formatted(pattern, size >> 10, how), 0.95);
    }
    Pairs writes = new Pairs();
    for (int round = 0; round < ROUNDS; round++) {
      int at = round % (slots.length / count) * count;
      long[] into = Arrays.copyOfRange(slots, at, at + count);
      writes.add(
          round,
          () -> timed(() -> write(engine, into, size)),
          () -> raw(raw, true, sequence(at, count), size));
    }
    writes.record("SSD write with headers, %d KiB, %s".formatted(size >> 10, how), 0.9);
    for (long slot : slots) {
      engine.free(slot);
    }
  }

  /** Moves {@link #ROUND_BYTES}; returns how long that took, in nanoseconds. */
  private interface Move {
    long nanos() throws InterruptedException;
  }

  private interface Work {
    void run() throws InterruptedException;
  }

  private static long timed(Work work) throws InterruptedException {
    long begin = System.nanoTime();
    work.run();
    return System.nanoTime() - begin;
  }

  /** Rates of ours and of the bare calls, round by round; who begins takes turns. */
  private final class Pairs {
    private final List<Double> ours = new ArrayList<>();
    private final List<Double> limits = new ArrayList<>();
    private final List<Double> ratios = new ArrayList<>();

    void add(int round, Move our, Move bare) throws InterruptedException {
      long first = (round % 2 == 0 ? bare : our).nanos();
      long second = (round % 2 == 0 ? our : bare).nanos();
      double rate = rate(round % 2 == 0 ? second : first);
      double limit = rate(round % 2 == 0 ? first : second);
      ours.add(rate);
      limits.add(limit);
      ratios.add(rate / limit);
    }

    void record(String name, double bar) {
      records.add(name, median(ours), "GB/s", median(limits), median(ratios), bar);
    }
  }

  private static double rate(long nanos) {
    return ROUND_BYTES / GB / seconds(nanos);
  }

  private static double median(List<Double> values) {
    return values.stream().sorted().skip(values.size() / 2).findFirst().orElseThrow();
  }

  private static double seconds(long nanos) {
    return nanos / 1e9;
  }

  private static int[] sequence(int first, int count) {
    int[] order = new int[count];
    Arrays.setAll(order, i -> first + i);
    return order;
  }

  private static int[] shuffled(int of, int count, int seed) {
    List<Integer> all = new ArrayList<>();
    for (int i = 0; i < of; i++) {
      all.add(i);
    }
    Collections.shuffle(all, new Random(seed));
    return all.subList(0, count).stream().mapToInt(Integer::intValue).toArray();
  }

  /** Bare accesses at the given places; returns nanoseconds. */
  private long raw(DirectFile file, boolean write, int[] order, int size)
      throws InterruptedException {
    AtomicInteger next = new AtomicInteger();
    AtomicInteger failures = new AtomicInteger();
    List<Thread> threads = new ArrayList<>();
    long begin = System.nanoTime();
    for (int t = 0; t < RAW_THREADS; t++) {
      threads.add(
          Thread.ofPlatform()
              .start(() -> {
                int i;
                while ((i = next.getAndIncrement()) < order.length) {
                  long address = memory.address() + (long) i * size;
                  long offset = (long) order[i] * size;
                  long done =
                      write ? file.write(offset, address, size) : file.read(offset, address, size);
                  if (done != size) {
                    failures.incrementAndGet();
                  }
                }
              }));
    }
    for (Thread thread : threads) {
      thread.join();
    }
    if (failures.get() > 0) {
      throw new IllegalStateException(failures + " bare accesses failed or were short");
    }
    return System.nanoTime() - begin;
  }

  private static long[] allocate(SsdEngine engine, int count, long size) {
    long[] slots = new long[count];
    for (int i = 0; i < count; i++) {
      slots[i] = engine.allocate(size);
      if (slots[i] == SsdStore.FULL) {
        throw new IllegalStateException("full after %d slots of %d bytes".formatted(i, size));
      }
    }
    return slots;
  }

  private SlotHeader header(long payload) {
    SlotIdentity identity =
        new SlotIdentity(NAMESPACE, NAMESPACE, 0, 0, NAMESPACE, nextKey++, 1, payload);
    return new SlotHeader(identity, false, 0, 0, 16, 1, new byte[96]);
  }

  private List<SlotHeader> write(SsdEngine engine, long[] slots, int size)
      throws InterruptedException {
    List<SlotHeader> headers = new ArrayList<>();
    long[] addresses = new long[slots.length];
    for (int i = 0; i < slots.length; i++) {
      headers.add(header(size));
      addresses[i] = memory.address() + (long) i * size % ROUND_BYTES;
    }
    run(engine, SsdJob.write(nextJob++, slots, addresses, headers));
    return headers;
  }

  private long read(SsdEngine engine, long[] slots, List<SlotHeader> headers, int[] order)
      throws InterruptedException {
    long[] from = new long[order.length];
    long[] addresses = new long[order.length];
    List<SlotIdentity> expected = new ArrayList<>();
    for (int i = 0; i < order.length; i++) {
      SlotIdentity identity = headers.get(order[i]).identity();
      from[i] = slots[order[i]];
      addresses[i] = memory.address() + i * identity.payloadBytes();
      expected.add(identity);
    }
    SsdJob job =
        SsdJob.read(
            nextJob++, SsdJob.Priority.READ_LIVE, from, addresses, expected, SsdJob.NO_DEADLINE);
    long begin = System.nanoTime();
    run(engine, job);
    return System.nanoTime() - begin;
  }

  private void run(SsdEngine engine, SsdJob job) throws InterruptedException {
    if (!engine.submit(job)) {
      throw new IllegalStateException("the store refused a job");
    }
    while (true) {
      SsdEvent event = engine.poll();
      if (event == null) {
        news.acquire();
      } else if (event instanceof SsdEvent.Ended end) {
        if (end.outcome() != SsdEvent.Outcome.DONE) {
          throw new IllegalStateException("job ended " + end);
        }
        return;
      }
    }
  }

  // ---- restart

  private RecoverySink.Report recover(SsdEngine engine) throws InterruptedException {
    CountDownLatch finished = new CountDownLatch(1);
    RecoverySink.Report[] reports = new RecoverySink.Report[1];
    engine.recover(
        new RecoverySink() {
          @Override
          public void offer(SurvivorBatch batch) {
            for (int i = 0; i < batch.size(); i++) {
              batch.answer(i, SurvivorBatch.Answer.TAKEN);
            }
            batch.answered();
          }

          @Override
          public void finished(Report report) {
            reports[0] = report;
            finished.countDown();
          }
        });
    finished.await();
    return reports[0];
  }

  private void restart() throws IOException, InterruptedException {
    int size = 8 << 10; // many blocks on little disk
    SsdOptions options = SsdOptions.of(List.of(folder.resolve("restart")), RESTART_BYTES);
    long blocks = 0;
    Duration before = cpu();
    try (SsdEngine engine = SsdEngine.open(options, news::release)) {
      recover(engine);
      int count = (int) (ROUND_BYTES / size);
      for (long bytes = 0; bytes < RESTART_BYTES * 8 / 10; bytes += ROUND_BYTES) {
        write(engine, allocate(engine, count, size), size);
        blocks += count;
      }
      double gib = blocks * size / GIB;
      records.add(
          "processor time of writing 8 KiB blocks with headers",
          cpu().minus(before).toNanos() / 1e9 / gib,
          "s/GiB");
      records.add(
          "bytes of headers a block, 96 of event data among them",
          (double) engine.stats().headerBytes() / blocks,
          "bytes");
    }
    Duration idle = cpu();
    long begin = System.nanoTime();
    try (SsdEngine engine = SsdEngine.open(options, news::release)) {
      double open = seconds(System.nanoTime() - begin);
      RecoverySink.Report report = recover(engine);
      double all = seconds(System.nanoTime() - begin);
      if (report.taken() != blocks) {
        throw new IllegalStateException("%d of %d blocks back".formatted(report.taken(), blocks));
      }
      records.add("SSD start: directories open, host tier serves", open, "s");
      records.add("SSD start: all of %d blocks back".formatted(blocks), all, "s");
      double busy = cpu().minus(idle).toNanos() / 1e9;
      records.add("SSD start: processor time of that", busy, "s");
      // What a start costs goes with the number of blocks, not with their bytes.
      double perBlock = all / blocks;
      double tera = 1e12;
      records.add(
          "SSD start, 1 TB of 1 MiB blocks (extrapolated)", perBlock * tera / (1 << 20), "s");
      records.check(
          "a start of 1 TB of 1 MiB blocks takes at most 5 s", perBlock * tera / (1 << 20) <= 5);
      records.check("directories open within a second", open <= 1);
    }
  }

  private static Duration cpu() {
    return ProcessHandle.current().info().totalCpuDuration().orElse(Duration.ZERO);
  }
}
