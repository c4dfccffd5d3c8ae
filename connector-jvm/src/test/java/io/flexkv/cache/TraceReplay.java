package io.flexkv.cache;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.GZIPInputStream;

/**
 * A trace of requests (Mooncake's form: time in ms, prefix-chained ids of 512-token blocks) played
 * through a real core over simulated tiers. A block is one unit of room. Reads are there when asked
 * again; writes take their time at a given rate, and what is not written yet cannot be read.
 */
final class TraceReplay implements CacheEffects {
  private static final long MILLI = 1_000_000L;
  private static final Pattern TIME = Pattern.compile("\"timestamp\": ?(\\d+)");
  private static final Pattern IDS = Pattern.compile("\"hash_ids\": ?\\[([^]]*)]");

  /** One line of a trace. */
  @SuppressWarnings("ArrayRecordComponent") // read once and never changed
  record Request(long millis, long[] blocks) {}

  /** What a replay came to, in blocks. */
  record Result(long blocks, long hostHits, long ssdHits, long written, long skipped, long read) {
    double hitPercent() {
      return 100.0 * (hostHits + ssdHits) / blocks;
    }

    double hostPercent() {
      return 100.0 * hostHits / blocks;
    }
  }

  private final CacheCore core;
  private final ArrayDeque<SsdTransfer> writes = new ArrayDeque<>();
  private final List<SsdTransfer> reads = new ArrayList<>();
  private final double writesPerMilli;
  private double writable;
  private long lastMillis;
  private long now;

  private TraceReplay(
      int hostBlocks,
      int ssdBlocks,
      WritePolicy policy,
      EvictionSettings eviction,
      double writesPerSecond) {
    writesPerMilli = writesPerSecond / 1000;
    int eighth = Math.max(1, hostBlocks / 8);
    SsdConfig config =
        new SsdConfig(
            policy, hostBlocks, eighth, Math.max(1, hostBlocks / 4), 64, 1 << 20, 0, 500 * MILLI);
    core =
        new CacheCore(
            CacheConfig.defaults(),
            eviction,
            new FakeSlots(hostBlocks),
            ssdBlocks == 0 ? SlotAllocator.NONE : new FakeSlots(ssdBlocks),
            config,
            this,
            () -> now,
            1);
    core.openInstance(1, core.openNamespace(1, 1, 1, new long[] {1}));
  }

  static List<Request> read(InputStream gzip) {
    List<Request> requests = new ArrayList<>();
    try (BufferedReader lines =
        new BufferedReader(
            new InputStreamReader(new GZIPInputStream(gzip), StandardCharsets.UTF_8))) {
      for (String line; (line = lines.readLine()) != null; ) {
        Matcher time = TIME.matcher(line);
        Matcher ids = IDS.matcher(line);
        if (!time.find() || !ids.find()) {
          throw new IOException("not a line of a trace: " + line);
        }
        String[] numbers = ids.group(1).split(",", -1);
        long[] blocks = new long[numbers.length];
        for (int i = 0; i < blocks.length; i++) {
          blocks[i] = Long.parseLong(numbers[i].strip()) + 1;
        }
        requests.add(new Request(Long.parseLong(time.group(1)), blocks));
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return requests;
  }

  /**
   * Plays a trace.
   *
   * @param ssdBlocks 0: there is no SSD tier
   * @param writesPerSecond blocks that the SSD takes a second
   */
  static Result play(
      List<Request> trace,
      int hostBlocks,
      int ssdBlocks,
      WritePolicy policy,
      EvictionSettings eviction,
      double writesPerSecond) {
    TraceReplay replay = new TraceReplay(hostBlocks, ssdBlocks, policy, eviction, writesPerSecond);
    long blocks = 0;
    long host = 0;
    long ssd = 0;
    long number = 0;
    for (Request request : trace) {
      replay.now = request.millis * MILLI + 1;
      replay.passTo(request.millis);
      blocks += request.blocks.length;
      long[] hits = replay.serve(++number, request.blocks);
      host += hits[0];
      ssd += hits[1];
    }
    CacheStats.Ssd stats = replay.core.stats().ssd();
    return new Result(
        blocks, host, ssd, stats.writtenBlocks(), stats.writesSkipped(), stats.promotedBlocks());
  }

  private void passTo(long millis) {
    writable += (millis - lastMillis) * writesPerMilli;
    lastMillis = millis;
    core.tick();
    while (!writes.isEmpty() && writes.peek().blocks().size() <= writable) {
      SsdTransfer write = writes.remove();
      writable -= write.blocks().size();
      core.ssd().written(write.id(), CoreFixture.ok(write.blocks().size()), true);
    }
    if (writes.isEmpty()) {
      writable = Math.min(writable, writesPerMilli * 1000); // idle time is not saved up
    }
  }

  /** Blocks of a request that came from the host tier, and from the SSD. */
  private long[] serve(long number, long[] blocks) {
    ByteBuffer hashes = ByteBuffer.allocate(16 * blocks.length);
    for (long block : blocks) {
      hashes.putLong(~block).putLong(block);
    }
    core.extendChain(1, number, 0, hashes.array(), 16, blocks.length);
    LookupResult found = core.lookup(1, number, 0, 0, blocks.length);
    int host = found.hostBlocks();
    for (int again = 0; found.pending() && again < 3; again++) {
      reads.forEach(
          read -> core.ssd().readEnded(read.id(), read.blocks().size(), SlotAllocator.FULL, true));
      reads.clear();
      found = core.lookup(1, number, 0, 0, blocks.length);
    }
    int servable = found.servableBlocks();
    core.planSave(
        1,
        number,
        number,
        0,
        0,
        CoreFixture.gpu(0, blocks.length),
        CoreFixture.gens(blocks.length));
    core.go(number, 0);
    core.savePartDone(number, 0, CoreFixture.ok(blocks.length));
    core.endRequest(1, number);
    return new long[] {Math.min(host, servable), Math.max(0, servable - host)};
  }

  @Override
  public void startLoad(
      long jobId, int part, int[] gpuBlocks, long[] slots, AvailableBlocks available) {}

  @Override
  public void startSave(long jobId, int part, int[] gpuBlocks, long[] slots, long[] generations) {}

  @Override
  public void jobDone(long jobId, int part, JobStatus status) {}

  @Override
  public void startRead(SsdTransfer read, boolean live) {
    reads.add(read);
  }

  @Override
  public void startWrite(SsdTransfer write) {
    writes.add(write);
  }
}
