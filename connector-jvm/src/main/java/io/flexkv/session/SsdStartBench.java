package io.flexkv.session;

import io.flexkv.cache.CacheConfig;
import io.flexkv.cache.SsdConfig;
import io.flexkv.protocol.RequestException;
import io.flexkv.tier.HostPool;
import io.flexkv.tier.ssd.SsdEngine;
import io.flexkv.tier.ssd.SsdOptions;
import io.flexkv.tier.ssd.SsdStore;
import io.flexkv.tier.ssd.SyntheticDirectory;
import io.flexkv.transfer.BenchRecords;
import java.lang.foreign.Arena;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * How long a start takes until the cache thread answers, and until all blocks of an SSD are served
 * again, by the engine, the cache thread and the cache core of a sidecar; and how long others wait
 * for the cache thread meanwhile. It goes with the number of blocks and not with their bytes: a
 * directory of small ones stands for a disk of larger ones.
 *
 * <p>Usage: {@code java -cp flexkv-sidecar.jar io.flexkv.session.SsdStartBench records.json folder
 * blocks}; it needs 4.3 KB a block there. The first start is that of a fresh process, as in life;
 * the second one shows what compiling the code costs the first.
 */
public final class SsdStartBench {
  private static final int STARTS = 2;
  private static final int CALL_MILLIS = 10_000;
  private static final long ASKS_EVERY_MILLIS = 1;

  private final ThreadMXBean threads = ManagementFactory.getThreadMXBean();
  private final BenchRecords records;
  private final Path folder;
  private final int blocks;

  /** Milliseconds that calls of the cache thread took while blocks came in. */
  private final List<Double> waits = new ArrayList<>();

  private SsdStartBench(Path folder, int blocks) {
    this.records = new BenchRecords("SsdStartBench " + blocks, BenchRecords.machine());
    this.folder = folder;
    this.blocks = blocks;
  }

  public static void main(String[] args) throws Exception {
    Path folder = Files.createTempDirectory(Path.of(args[1]), "flexkv-start-bench-");
    try {
      SsdStartBench bench = new SsdStartBench(folder, Integer.parseInt(args[2]));
      bench.run();
      bench.records.write(Path.of(args[0]));
    } finally {
      try (var paths = Files.walk(folder)) {
        for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) {
          Files.delete(path);
        }
      }
    }
  }

  private void run() throws Exception {
    Path disk = folder.resolve("disk");
    long capacity = SyntheticDirectory.make(disk, blocks, SsdStore.PAGE_BYTES, 0, false);
    for (int i = 1; i <= STARTS; i++) {
      start(disk, capacity, i);
    }
  }

  private void start(Path disk, long capacity, int turn) throws Exception {
    waits.clear();
    SsdNews news = new SsdNews();
    long begin = System.nanoTime();
    try (Arena arena = Arena.ofShared();
        SsdEngine engine = SsdEngine.open(SsdOptions.of(List.of(disk), capacity), news)) {
      long hostBytes = 64L * SsdStore.PAGE_BYTES;
      CacheAgent agent =
          new CacheAgent(
              BootIdentity.create("bench", ""),
              new HostSlots(HostPool.create("flexkv-bench", hostBytes, hostBytes, arena), 0),
              new SsdUse(engine, SsdConfig.forHost(hostBytes), 0),
              CacheConfig.defaults(),
              50_000);
      news.agent = agent;
      Thread cache = Thread.ofPlatform().name("flexkv-cache").start(agent);
      try {
        blocks(agent);
        double serving = seconds(begin);
        while (blocks(agent) < blocks) {
          Thread.sleep(ASKS_EVERY_MILLIS);
        }
        double all = seconds(begin);
        records.add(
            "start %d: processor time of the cache thread".formatted(turn),
            threads.getThreadCpuTime(cache.threadId()) / 1e9,
            "s");
        tell("start %d: ".formatted(turn), serving, all);
      } finally {
        agent.stop();
        cache.join();
      }
    }
  }

  private void tell(String start, double serving, double all) {
    records.add(start + "serving", serving, "s");
    records.add(start + "all", all, "s");
    Collections.sort(waits);
    records.add(start + "wait p50", waits.get(waits.size() / 2), "ms");
    records.add(start + "wait p99", waits.get(waits.size() * 99 / 100), "ms");
    records.add(start + "longest wait", waits.getLast(), "ms");
  }

  private static double seconds(long since) {
    return (System.nanoTime() - since) / 1e9;
  }

  private int blocks(CacheAgent agent) throws RequestException {
    long asked = System.nanoTime();
    int there = agent.inbox().call(() -> agent.stats().ssd().blocks(), CALL_MILLIS);
    if (there > 0) {
      waits.add((System.nanoTime() - asked) / 1e6);
    }
    return there;
  }

  /** Wakes the cache thread, which is there later than the engine. */
  private static final class SsdNews implements Runnable {
    private volatile @Nullable CacheAgent agent;

    @Override
    public void run() {
      CacheAgent there = agent;
      if (there != null) {
        there.ssdMoved();
      }
    }
  }
}
