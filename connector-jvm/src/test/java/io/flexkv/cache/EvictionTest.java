package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.HASH_BYTES;
import static io.flexkv.cache.CoreFixture.hash;
import static io.flexkv.cache.CoreFixture.hashes;
import static io.flexkv.cache.CoreFixture.ok;
import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.EvictionSettings.Policy;
import io.flexkv.cache.RecordedEffects.Evicted;
import io.flexkv.cache.RecordedEffects.SaveDone;
import org.junit.jupiter.api.Test;

class EvictionTest {
  private final CoreFixture f = new CoreFixture(8, 1);
  private long lastJob;

  @Test
  void planSave_poolFull_evictsTheLeastRecentlyUsedChainFromItsTail() {
    f.cached(1, 4);
    f.cached(2, 4);
    assertThat(f.servable(1, 4)).as("and so used last").isEqualTo(4);
    f.cached(3, 3);
    assertThat(f.effects.evicted)
        .containsExactly(
            new Evicted(Tier.HOST, f.namespace, 0, hash(2, 3)),
            new Evicted(Tier.HOST, f.namespace, 0, hash(2, 2)),
            new Evicted(Tier.HOST, f.namespace, 0, hash(2, 1)));
    assertThat(f.servable(1, 4)).isEqualTo(4);
    assertThat(f.servable(2, 4)).isEqualTo(1);
    assertThat(f.servable(3, 3)).isEqualTo(3);
  }

  @Test
  void lookup_innerBlockUsedLast_outlivesItsOlderTail() {
    f.cached(1, 4);
    f.cached(2, 4);
    f.servable(1, 2);
    f.cached(3, 7);
    assertThat(f.effects.evicted.stream().map(Evicted::hash))
        .as("the tail of 1 is oldest, then all of 2, and 1 again from where it was used")
        .containsExactly(
            hash(1, 3), hash(1, 2), hash(2, 3), hash(2, 2), hash(2, 1), hash(2, 0), hash(1, 1));
  }

  @Test
  void planSave_everythingPinned_savesWhatFits() {
    f.cached(1, 6);
    f.extend(1, 1, 6);
    f.core.lookup(ENGINE, 1, 0, 0, 6);
    f.extend(2, 2, 4);
    long job = f.planSave(2, 0, 4);
    f.core.go(job, 0);
    assertThat(f.effects.lastStart().slots).hasSize(2);
    f.core.savePartDone(job, 0, ok(2));
    assertThat(f.effects.saves).endsWith(new SaveDone(job, 2, 0, 2));
    assertThat(f.servable(2, 4)).isEqualTo(2);
    assertThat(f.effects.evicted).isEmpty();
    assertThat(f.core.stats().dropped()).containsEntry(DropReason.POOL_FULL, 2L);
  }

  @Test
  void planSave_longerThanThePool_doesNotEvictItsOwnParents() {
    f.cached(1, 4);
    f.extend(1, 1, 20);
    long job = f.planSave(1, 4, 16);
    f.core.go(job, 0);
    f.core.savePartDone(job, 0, ok(4));
    assertThat(f.servable(1, 20)).isEqualTo(8);
    assertThat(f.effects.evicted).isEmpty();
    assertThat(f.planSave(1, 8, 12)).isPositive();
    assertThat(f.servable(1, 20)).isEqualTo(8);
  }

  @Test
  void planSave_openAndPendingBlocks_areNoVictims() {
    f.extend(1, 1, 8);
    f.planSave(1, 0, 8);
    f.cached(2, 2);
    assertThat(f.servable(2, 2)).isZero();
    assertThat(f.core.stats().pendingBlocks()).isEqualTo(8);
  }

  @Test
  void planSave_noVictimOfItsSize_evictsOthersUntilAnExtentIsFree() {
    RecordedEffects effects = new RecordedEffects();
    FakeSlots slots = new FakeSlots(96, 48);
    CacheCore core = new CacheCore(CacheConfig.defaults(), slots, effects, () -> 1, 1);
    core.openInstance(1, core.openNamespace(1, 1, 1, new long[] {8}));
    core.openInstance(2, core.openNamespace(2, 2, 1, new long[] {24}));
    save(core, 1, 1, 12);
    assertThat(slots.usedBytes()).isEqualTo(96);
    save(core, 2, 2, 4);
    assertThat(effects.evicted).as("all of the small blocks, for two extents").hasSize(12);
    assertThat(core.stats().readyBlocks()).isEqualTo(4);
    save(core, 2, 3, 2);
    assertThat(effects.evicted).as("then its own").hasSize(14);
  }

  @Test
  void planSave_foreignVictimsBeyondTheBound_givesUp() {
    RecordedEffects effects = new RecordedEffects();
    CacheConfig config = CacheConfig.defaults().withJobs(100, 100, 100, 3);
    CacheCore core = new CacheCore(config, new FakeSlots(96, 48), effects, () -> 1, 1);
    core.openInstance(1, core.openNamespace(1, 1, 1, new long[] {8}));
    core.openInstance(2, core.openNamespace(2, 2, 1, new long[] {24}));
    save(core, 1, 1, 12);
    save(core, 2, 2, 4);
    assertThat(effects.evicted).hasSize(3);
    assertThat(core.stats().readyBlocks()).isEqualTo(9);
    save(core, 2, 2, 4);
    assertThat(effects.evicted).hasSize(6);
    assertThat(core.stats().readyBlocks()).as("6 small ones, 2 of the other size").isEqualTo(8);
  }

  @Test
  void planSave_evictRatio_evictsThatShareAtOnce() {
    CoreFixture f = with(new EvictionSettings(Policy.LRU, 0, 2, 1, 0.5));
    f.cached(1, 4);
    f.cached(2, 4);
    assertThat(f.effects.evicted).isEmpty();
    f.cached(3, 1);
    assertThat(f.effects.evicted).hasSize(4);
    assertThat(f.servable(2, 4)).isEqualTo(4);
  }

  @Test
  void planSave_startThresholdReached_evictsDownToIt() {
    CoreFixture f = with(new EvictionSettings(Policy.LRU, 0, 2, 0.5, 0));
    f.cached(1, 5);
    assertThat(f.effects.evicted).as("half was not in use before").isEmpty();
    f.cached(2, 1);
    assertThat(f.effects.evicted).as("from 5 of 8 to 4").hasSize(1);
  }

  @Test
  void planSave_muchToEvictAhead_isDoneInPortionsByTicks() {
    CoreFixture f =
        new CoreFixture(
            4000, 1, CacheConfig.defaults(), new EvictionSettings(Policy.LRU, 0, 2, 1, 1));
    f.cached(1, 4000);
    f.cached(2, 1);
    assertThat(f.effects.evicted).hasSize(1024);
    f.core.tick();
    assertThat(f.effects.evicted).hasSize(2048);
    f.core.tick();
    f.core.tick();
    f.core.tick();
    assertThat(f.effects.evicted).as("all there was, and no more").hasSize(4000);
  }

  @Test
  void setEviction_otherPolicy_victimsAreItsOwnAndPinnedBlocksStay() {
    f.cached(1, 4);
    f.cached(2, 4);
    f.extend(9, 1, 4);
    f.core.lookup(ENGINE, 9, 0, 0, 4);
    f.core.setEviction(new EvictionSettings(Policy.MRU, 0, 2, 1, 0));
    f.cached(3, 2);
    assertThat(f.effects.evicted.stream().map(Evicted::hash))
        .as("most recent first, but 1 has a lease")
        .containsExactly(hash(2, 3), hash(2, 2));
    f.core.setEviction(EvictionSettings.DEFAULT);
    f.core.endRequest(ENGINE, 9);
    f.cached(4, 4);
    assertThat(f.effects.evicted.stream().skip(2).map(Evicted::hash))
        .as("the order of use was kept")
        .containsExactly(hash(2, 1), hash(2, 0), hash(1, 3), hash(1, 2));
  }

  @Test
  void setEviction_manyBlocks_isDoneInPortions_whileLookupsAreAnswered() {
    int chains = 128;
    int depth = PolicyLearning.AT_ONCE / chains * 2;
    CoreFixture many = new CoreFixture(chains * depth, 1);
    for (int chain = 1; chain <= chains; chain++) {
      many.cached(chain, depth);
    }
    many.core.setEviction(new EvictionSettings(Policy.MRU, 0, 2, 1, 0));
    int turns = 0;
    for (int looked; (looked = many.core.turn()) > 0; turns++) {
      assertThat(looked).isLessThanOrEqualTo(PolicyLearning.PORTION);
      assertThat(many.servable(1 + turns % chains, depth)).isEqualTo(depth);
    }
    assertThat(turns).isEqualTo((chains * depth - PolicyLearning.AT_ONCE) / PolicyLearning.PORTION);
    TreeChecker.check(many.core);
    many.effects.evicted.clear();
    many.cached(chains + 1, 1);
    assertThat(many.effects.evicted)
        .extracting(Evicted::hash)
        .containsExactly(hash(1 + (turns - 1) % chains, depth - 1));
  }

  private static CoreFixture with(EvictionSettings eviction) {
    return new CoreFixture(8, 1, CacheConfig.defaults(), eviction);
  }

  private void save(CacheCore core, int instance, long chain, int count) {
    core.extendChain(instance, chain, 0, hashes(chain, 0, count), HASH_BYTES, count);
    long job = ++lastJob;
    core.planSave(instance, job, chain, 0, 0, CoreFixture.gpu(0, count), CoreFixture.gens(count));
    core.go(job, 0);
    core.savePartDone(job, 0, ok(count));
    core.endRequest(instance, chain);
  }
}
