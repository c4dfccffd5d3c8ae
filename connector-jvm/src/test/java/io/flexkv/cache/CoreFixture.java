package io.flexkv.cache;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.stream.IntStream;
import java.util.stream.LongStream;

/** A core with one namespace and one instance, and short words for what tests do with it. */
final class CoreFixture {
  static final int HASH_BYTES = 32;
  static final int ENGINE = 1;
  static final long SECOND = 1_000_000_000L;

  final RecordedEffects effects = new RecordedEffects();
  final FakeSlots slots;
  final FakeSlots ssdSlots;
  final CacheCore core;
  final int parts;
  final int namespace;
  long now = 5 * SECOND;
  private long nextJob = 1;

  /** A core with room for so many blocks, of so many parts each. */
  CoreFixture(int capacityBlocks, int parts) {
    this(capacityBlocks, parts, CacheConfig.defaults());
  }

  CoreFixture(int capacityBlocks, int parts, CacheConfig config) {
    this(capacityBlocks, parts, config, EvictionSettings.DEFAULT);
  }

  CoreFixture(int capacityBlocks, int parts, CacheConfig config, EvictionSettings eviction) {
    this.parts = parts;
    slots = new FakeSlots((long) capacityBlocks * parts * 10);
    ssdSlots = new FakeSlots(0);
    core = new CacheCore(config, eviction, slots, effects, () -> now, 42);
    namespace = core.openNamespace(7, 7, parts, sizes(parts, 10));
    core.openInstance(ENGINE, namespace);
  }

  /** A core with an SSD tier of so many blocks; transfers go as far as the test says. */
  CoreFixture(int capacityBlocks, int ssdBlocks, SsdConfig ssd) {
    this(capacityBlocks, ssdBlocks, ssd, 10);
  }

  /** Likewise, with blocks of so many bytes. */
  CoreFixture(int capacityBlocks, int ssdBlocks, SsdConfig ssd, long blockBytes) {
    parts = 1;
    slots = new FakeSlots(capacityBlocks * blockBytes);
    ssdSlots = new FakeSlots(ssdBlocks * blockBytes);
    core =
        new CacheCore(
            CacheConfig.defaults(),
            EvictionSettings.DEFAULT,
            slots,
            ssdSlots,
            ssd,
            effects,
            () -> now,
            42);
    namespace = core.openNamespace(7, 7, 1, sizes(1, blockBytes));
    core.openInstance(ENGINE, namespace);
  }

  /** Ends the writes that were started, as stored. */
  void writeAll() {
    while (!effects.writes.isEmpty()) {
      SsdTransfer write = effects.writes.removeFirst();
      core.ssd().written(write.id(), ok(write.blocks().size()), true);
    }
  }

  static long[] sizes(int parts, long bytes) {
    long[] sizes = new long[parts];
    Arrays.fill(sizes, bytes);
    return sizes;
  }

  /** The joined hashes of blocks [first, first + count) of the chain with this name. */
  static byte[] hashes(long chain, int first, int count) {
    ByteBuffer buffer = ByteBuffer.allocate(count * HASH_BYTES);
    for (int i = first; i < first + count; i++) {
      buffer.putLong(-1).putLong(-1).putLong(chain).putLong(hash(chain, i));
    }
    return buffer.array();
  }

  /** The last 8 bytes of a block's hash. */
  static long hash(long chain, int block) {
    return chain * 1_000_000 + block;
  }

  /** Gives a request the first {@code count} blocks of a chain. */
  boolean extend(long request, long chain, int count) {
    return core.extendChain(ENGINE, request, 0, hashes(chain, 0, count), HASH_BYTES, count);
  }

  long planSave(long request, int first, int count) {
    long job = nextJob++;
    core.planSave(ENGINE, job, request, 0, first, gpu(first, count), gens(count));
    return job;
  }

  long planLoad(long request, int first, int count) {
    long job = nextJob++;
    core.planLoad(ENGINE, job, request, 0, first, gpu(first, count), parts);
    return job;
  }

  /** Saves the whole of a chain under a request of the same number, and ends that request. */
  void cached(long chain, int count) {
    extend(chain, chain, count);
    long job = planSave(chain, 0, count);
    for (int part = 0; part < parts; part++) {
      core.go(job, part);
      core.savePartDone(job, part, ok(count));
    }
    core.endRequest(ENGINE, chain);
  }

  /** What a new request for a chain finds servable; the request ends again. */
  int servable(long chain, int count) {
    long request = 1_000_000 + chain;
    extend(request, chain, count);
    int servable = core.lookup(ENGINE, request, 0, 0, count).servableBlocks();
    core.endRequest(ENGINE, request);
    return servable;
  }

  static boolean[] ok(int count) {
    boolean[] ok = new boolean[count];
    Arrays.fill(ok, true);
    return ok;
  }

  static boolean[] okBut(int count, int bad) {
    boolean[] ok = ok(count);
    ok[bad] = false;
    return ok;
  }

  static int[] gpu(int first, int count) {
    return IntStream.range(0, count).map(i -> 100 + first + i).toArray();
  }

  static long[] gens(int count) {
    return LongStream.range(0, count).map(i -> i + 1).toArray();
  }
}
