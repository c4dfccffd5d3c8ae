package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.AvailableBlocks;
import io.flexkv.cache.CacheConfig;
import io.flexkv.cache.CacheCore;
import io.flexkv.cache.CacheEffects;
import io.flexkv.cache.EvictionSettings;
import io.flexkv.cache.JobStatus;
import io.flexkv.cache.LookupResult;
import io.flexkv.cache.SlotAllocator;
import io.flexkv.cache.SsdConfig;
import io.flexkv.cache.SsdTransfer;
import io.flexkv.events.EventHub;
import io.flexkv.ffm.EventFd;
import io.flexkv.tier.HostPool;
import io.flexkv.tier.ssd.MemorySsdStore;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;

/** The core, the router and a store without disks; bytes are real, copies from engines are not. */
class SsdRouterTest {
  private static final int BLOCK = 4096;
  private static final int HASH_BYTES = 16;

  private final Rig rig = new Rig(new MemorySsdStore(1 << 20, 64, true));

  /** One life of a sidecar. */
  private static final class Rig implements CacheEffects {
    final MemorySsdStore store;
    final HostPool pool;
    final HostSlots slots;
    final SsdRouter router;
    final CacheCore core;
    final int namespace;
    final ArrayDeque<Runnable> effects = new ArrayDeque<>();
    final List<long[]> saved = new ArrayList<>();
    AvailableBlocks available = AvailableBlocks.ALL;
    long[] loaded = new long[0];
    long nextJob = 1;

    Rig(MemorySsdStore store) {
      this(store, 0);
    }

    Rig(MemorySsdStore store, long maxBlocks) {
      this.store = store;
      try {
        pool = HostPool.create("test", 8 * BLOCK, 8 * BLOCK, Arena.ofAuto());
      } catch (IOException e) {
        throw new AssertionError(e);
      }
      slots = new HostSlots(pool, 0);
      SsdConfig config = SsdConfig.forHost(64 * BLOCK);
      router =
          new SsdRouter(new SsdUse(store, config, maxBlocks), slots, new EventHub(), 5, () -> 1);
      core =
          new CacheCore(
              CacheConfig.defaults(),
              EvictionSettings.DEFAULT,
              slots,
              router,
              config,
              this,
              System::nanoTime,
              1);
      router.bind(core);
      namespace = core.openNamespace(3, 4, 1, new long[] {BLOCK}, router.recordedGeneration(3, 4));
      core.openInstance(1, namespace);
      router.opened(namespace, 3, 4, 16);
    }

    void run() {
      do {
        for (Runnable effect; (effect = effects.poll()) != null; ) {
          effect.run();
        }
        store.run();
      } while (router.poll() > 0);
    }

    MemorySegment bytes(long slot) {
      return MemorySegment.ofAddress(slots.address(slot)).reinterpret(BLOCK);
    }

    /** Saves blocks [0, count) of a chain, each filled with its own letter. */
    void save(long chain, int count) {
      chain(chain, count);
      long job = nextJob++;
      core.planSave(1, job, chain, 0, 0, new int[count], new long[count]);
      core.go(job, 0);
      long[] to = saved.getLast();
      for (int i = 0; i < to.length; i++) {
        bytes(to[i]).fill((byte) (10 * chain + i));
      }
      boolean[] ok = new boolean[count];
      Arrays.fill(ok, true);
      core.savePartDone(job, 0, ok);
      core.endRequest(1, chain);
      run();
    }

    void chain(long chain, int count) {
      ByteBuffer hashes = ByteBuffer.allocate(count * HASH_BYTES);
      for (int i = 0; i < count; i++) {
        hashes.putLong(~chain).putLong(1000 * chain + i);
      }
      core.extendChain(1, chain, 0, hashes.array(), HASH_BYTES, count);
    }

    /** Asks until there is an answer. */
    int servable(long chain, int count) {
      chain(chain, count);
      LookupResult found = core.lookup(1, chain, 0, 0, count);
      for (int again = 0; found.pending() && again < 5; again++) {
        run();
        found = core.lookup(1, chain, 0, 0, count);
      }
      run();
      return found.servableBlocks();
    }

    @Override
    public void startLoad(
        long jobId, int part, int[] gpuBlocks, long[] jobSlots, AvailableBlocks blocks) {
      loaded = jobSlots;
      available = blocks;
    }

    @Override
    public void startSave(long jobId, int part, int[] blocks, long[] jobSlots, long[] counters) {
      saved.add(jobSlots);
    }

    @Override
    public void startRead(SsdTransfer read, boolean live) {
      effects.add(() -> router.startRead(read, live));
    }

    @Override
    public void startWrite(SsdTransfer write) {
      effects.add(() -> router.startWrite(write));
    }

    @Override
    public void cancelTransfer(long transferId) {
      effects.add(() -> router.cancel(transferId));
    }

    @Override
    public void jobDone(long jobId, int part, JobStatus status) {}
  }

  @Test
  void blocksWrittenEvictedAndRead_bytesAreTheSame() {
    rig.save(1, 4);
    rig.save(2, 8);
    assertThat(rig.core.stats().ssd().blocks()).isEqualTo(12);
    assertThat(rig.servable(1, 4)).isEqualTo(4);
    rig.core.planLoad(1, 99, 1, 0, 0, new int[4], 1);
    rig.core.go(99, 0);
    assertThat(rig.available.count()).isGreaterThanOrEqualTo(4);
    for (int i = 0; i < 4; i++) {
      assertThat(rig.bytes(rig.loaded[i]).get(ValueLayout.JAVA_BYTE, BLOCK - 1))
          .isEqualTo((byte) (10 + i));
    }
  }

  @Test
  void recover_nextLife_servesWhatSurvived() throws Exception {
    rig.save(1, 4);
    Rig next = new Rig(rig.store.restart());
    recover(next);
    assertThat(next.core.stats().ssd().adoptedBlocks()).isEqualTo(4);
    assertThat(next.servable(1, 4)).isEqualTo(4);
  }

  @Test
  void recover_moreThanTheCap_theBlocksWrittenLastAreServed() throws Exception {
    rig.save(1, 4);
    rig.save(2, 4);
    Rig next = new Rig(rig.store.restart(), 5);
    recover(next);
    assertThat(next.core.stats().ssd().blocks()).isEqualTo(5);
    assertThat(next.servable(2, 4)).isEqualTo(4);
    assertThat(next.servable(1, 4)).isEqualTo(1);
  }

  private static void recover(Rig next) throws Exception {
    next.router.recover(new AgentInbox(EventFd.create()));
    next.run();
  }

  @Test
  void recover_directoryLostMeanwhile_nothingOfItIsAdopted() throws Exception {
    rig.save(1, 4);
    Rig next = new Rig(rig.store.restart());
    next.store.lose();
    next.run();
    recover(next);
    assertThat(next.core.stats().ssd().adoptedBlocks()).isZero();
    assertThat(next.store.usedBytes()).isZero();
  }

  @Test
  void reset_answeredOnlyWhenTheStoreHasIt_andHoldsAfterARestart() {
    rig.save(1, 4);
    List<String> answers = new ArrayList<>();
    int generation = rig.core.resetNamespace(rig.namespace);
    rig.router.reset(3, 4, generation, (g, durable) -> answers.add(g + " " + durable));
    assertThat(answers).as("not yet on any disk").isEmpty();
    rig.run();
    assertThat(answers).containsExactly("1 true");
    Rig next = new Rig(rig.store.restart());
    assertThat(next.core.generation(next.namespace)).isEqualTo(1);
    assertThat(next.servable(1, 4)).isZero();
  }

  @Test
  void reset_noDiskLeft_isAnsweredAsNotDurable() {
    rig.save(1, 4);
    rig.store.lose();
    rig.run();
    List<String> answers = new ArrayList<>();
    int generation = rig.core.resetNamespace(rig.namespace);
    rig.router.reset(3, 4, generation, (g, durable) -> answers.add(g + " " + durable));
    rig.run();
    assertThat(answers).containsExactly("1 false");
  }

  @Test
  void directoryLost_hostTierGoesOnAlone() {
    rig.save(1, 4);
    rig.save(2, 6);
    rig.store.lose();
    rig.run();
    assertThat(rig.core.stats().ssd().blocks()).isZero();
    assertThat(rig.servable(2, 6)).isEqualTo(6);
    rig.save(3, 2);
    assertThat(rig.servable(3, 2)).isEqualTo(2);
    assertThat(rig.router.serves()).isFalse();
    assertThat(rig.core.stats().ssd().queuedBytes()).as("waits for a disk").isPositive();
    assertThat(rig.core.stats().quarantinedSlots()).isZero();
  }

  /** One that comes back has the index of the lost one: its blocks are not taken for lost. */
  @Test
  void directoryLost_manyBlocks_comesBackWhenAllAreForgotten_andKeepsWhatIsWritten() {
    Rig many = new Rig(new MemorySsdStore(1L << 40, 64, false));
    int chains = 1500;
    for (int chain = 1; chain <= chains; chain++) {
      many.save(chain, 8);
    }
    assertThat(many.core.stats().ssd().blocks()).isEqualTo(8 * chains);
    many.store.lose();
    many.run();
    assertThat(many.store.usedBytes()).as("not at once").isPositive();
    while (!many.store.reattach(Path.of("memory"))) {
      assertThat(many.core.turn()).as("left to forget").isPositive();
      many.run();
    }
    int turns = 0;
    int working;
    do {
      turns++;
      many.save(chains + turns, 2);
      working = many.core.turn();
    } while (working > 0 && turns < 300);
    assertThat(working).as("after some turns").isZero();
    assertThat(many.core.stats().ssd().blocks()).isEqualTo(2 * turns);
  }

  @Test
  void read_storeRefusesIt_requestGoesOnWithTheHostTier() {
    rig.save(1, 4);
    rig.save(2, 8);
    rig.store.failWhere((job, block) -> !job.isWrite());
    assertThat(rig.servable(1, 4)).isZero();
    assertThat(rig.core.stats().ssd().promotionsDeclined()).isEqualTo(1);
    assertThat(rig.core.stats().quarantinedSlots()).isZero();
  }

  @Test
  void maxBlocks_isACapBesidesTheStores() {
    SsdRouter capped =
        new SsdRouter(
            new SsdUse(rig.store, SsdConfig.forHost(1), 2), rig.slots, new EventHub(), 5, () -> 1);
    long first = capped.allocate(BLOCK);
    assertThat(capped.allocate(BLOCK)).isPositive();
    assertThat(capped.allocate(BLOCK)).isEqualTo(SlotAllocator.FULL);
    capped.free(first);
    assertThat(capped.allocate(BLOCK)).isPositive();
  }
}
