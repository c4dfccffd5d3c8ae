package io.flexkv.session;

import io.flexkv.cache.BlockIdentity;
import io.flexkv.cache.CacheConfig;
import io.flexkv.cache.CacheCore;
import io.flexkv.cache.EvictionSettings;
import io.flexkv.cache.LookupResult;
import io.flexkv.cache.SsdConfig;
import io.flexkv.events.EventHub;
import io.flexkv.tier.HostPool;
import java.lang.foreign.Arena;
import java.nio.ByteBuffer;

/**
 * Serves some chains from an SSD tier without a disk, so that the compiler has done its work before
 * the first engine waits for one: half compiled code takes as long for a chain as a disk takes for
 * its first hundred megabytes.
 *
 * <p>Goes from the lookup to the planned load through the classes that serve, with a core, a pool
 * and a store of its own that nobody else sees; {@link LookupWarmup} is the same for the host tier.
 */
final class SsdWarmup {
  private static final int BLOCKS = 64;
  private static final int SLOT_BYTES = 4096;
  private static final int POOL_BLOCKS = 256;
  private static final int HASH_BYTES = 16;
  private static final int INSTANCE = 1;

  private final WarmupStore store = new WarmupStore();
  private final SsdRouter ssd;
  private final JobRouter jobs;
  private final CacheCore core;
  private final int namespace;

  private SsdWarmup(Arena arena) throws java.io.IOException {
    long poolBytes = (long) POOL_BLOCKS * SLOT_BYTES;
    HostSlots slots =
        new HostSlots(HostPool.create("flexkv-warmup", poolBytes, poolBytes, arena), 0);
    SsdConfig config = SsdConfig.forHost(poolBytes);
    EventHub events = new EventHub();
    ssd = new SsdRouter(new SsdUse(store, config, 0), slots, events, 1, System::nanoTime);
    Outbox outbox = new Outbox(1);
    jobs = new JobRouter(new Directory(), outbox, slots, ssd, events, System::nanoTime);
    core =
        new CacheCore(
            CacheConfig.defaults(),
            EvictionSettings.DEFAULT,
            slots,
            ssd,
            config,
            jobs,
            System::nanoTime,
            1);
    jobs.bind(core);
    ssd.bind(core);
    namespace = core.openNamespace(1, 2, 1, new long[] {SLOT_BYTES});
    core.openInstance(INSTANCE, namespace);
  }

  /** Serves so many chains; returns how many of them could be loaded whole. */
  static int run(int chains) throws java.io.IOException {
    try (Arena arena = Arena.ofConfined()) {
      SsdWarmup warmup = new SsdWarmup(arena);
      int served = 0;
      for (int chain = 1; chain <= chains; chain++) {
        served += warmup.serve(chain) ? 1 : 0;
      }
      return served;
    }
  }

  private boolean serve(int chain) {
    find(chain);
    core.extendChain(INSTANCE, chain, 0, hashes(chain), HASH_BYTES, BLOCKS);
    LookupResult found = core.lookup(INSTANCE, chain, 0, 0, BLOCKS);
    for (int i = 0; found.pending() && i < BLOCKS; i++) {
      core.turn();
      jobs.run();
      ssd.poll();
      found = core.lookup(INSTANCE, chain, 0, 0, BLOCKS);
    }
    boolean whole =
        found.servableBlocks() == BLOCKS
            && core.planLoad(INSTANCE, chain, chain, 0, 0, new int[BLOCKS], 1);
    core.revokeLoad(chain, 0);
    core.endRequest(INSTANCE, chain);
    jobs.run();
    return whole;
  }

  /** A chain is on the disk since before. */
  private void find(int chain) {
    for (int i = 0; i < BLOCKS; i++) {
      BlockIdentity block =
          new BlockIdentity(
              core.digestHi(namespace),
              core.digestLo(namespace),
              core.generation(namespace),
              0,
              chain,
              i,
              i > 0,
              i > 0 ? chain : 0,
              i > 0 ? i - 1 : 0,
              SLOT_BYTES);
      core.ssd().adopt(block, store.allocate(SLOT_BYTES));
    }
  }

  private static byte[] hashes(int chain) {
    ByteBuffer hashes = ByteBuffer.allocate(HASH_BYTES * BLOCKS);
    for (int i = 0; i < BLOCKS; i++) {
      hashes.putLong(chain).putLong(i);
    }
    return hashes.array();
  }
}
