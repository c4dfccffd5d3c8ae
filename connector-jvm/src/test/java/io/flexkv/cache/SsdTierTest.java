package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.SECOND;
import static io.flexkv.cache.CoreFixture.hash;
import static io.flexkv.cache.CoreFixture.ok;
import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.RecordedEffects.Done;
import io.flexkv.cache.RecordedEffects.Evicted;
import io.flexkv.cache.RecordedEffects.Stored;
import io.flexkv.cache.SsdReports.Adoption;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class SsdTierTest {
  private static final SsdConfig CONFIG =
      new SsdConfig(WritePolicy.THROUGH, 1000, 1000, 1000, 1000, 64, 0, SECOND / 2);

  /** For blocks of 1 MiB, of which reads tell the SSD's rate. */
  private static final SsdConfig LARGE =
      new SsdConfig(WritePolicy.THROUGH, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 64, 0, SECOND / 2);

  private CoreFixture f = new CoreFixture(8, 100, CONFIG);

  @AfterEach
  void links() {
    TreeChecker.check(f.core);
  }

  private LookupResult look(long request, int first, int blocks) {
    return f.core.lookup(ENGINE, request, 0, first, blocks);
  }

  /** Chain 1 of four blocks is on the SSD alone: another of eight has taken the host tier. */
  private void onSsdAlone() {
    f.cached(1, 4);
    f.writeAll();
    f.cached(2, 8);
    f.writeAll();
    f.effects.stored.clear();
    f.effects.evicted.clear();
  }

  /** A request for chain 1 whose reads have been started. */
  private SsdTransfer reading(long request) {
    f.extend(request, 1, 4);
    assertThat(look(request, 0, 9).pending()).isTrue();
    assertThat(look(request, 0, 9).pending()).isTrue();
    return f.effects.reads.getLast();
  }

  @Test
  void published_writeThrough_isWrittenAndAnnounced() {
    f.cached(1, 3);
    SsdTransfer write = f.effects.writes.getFirst();
    assertThat(write.blocks())
        .extracting(BlockIdentity::hashLo, BlockIdentity::hasParent, BlockIdentity::parentLo)
        .containsExactly(
            org.assertj.core.groups.Tuple.tuple(hash(1, 0), false, 0L),
            org.assertj.core.groups.Tuple.tuple(hash(1, 1), true, hash(1, 0)),
            org.assertj.core.groups.Tuple.tuple(hash(1, 2), true, hash(1, 1)));
    f.effects.stored.clear();
    f.core.ssd().written(write.id(), new boolean[] {true, true, false}, true);
    assertThat(f.effects.stored)
        .containsExactly(
            new Stored(Tier.SSD, f.namespace, 0, hash(1, 0), 0, false),
            new Stored(Tier.SSD, f.namespace, 0, hash(1, 1), hash(1, 0), true));
    assertThat(f.ssdSlots.taken()).as("the slot of the third is free again").isEqualTo(2);
  }

  @Test
  void eviction_blockIsOnSsd_keepsTheEntry() {
    onSsdAlone();
    f.extend(1, 1, 4);
    LookupResult found = look(1, 0, 9);
    assertThat(found.hostBlocks()).isZero();
    assertThat(found.ssdBlocks()).isEqualTo(4);
    assertThat(found.residentBlocks()).isEqualTo(4);
    assertThat(f.core.stats().readyBlocks()).isEqualTo(12);
    assertThat(f.core.stats().hostBlocks()).isEqualTo(8);
  }

  @Test
  void lookup_onSsd_startsNothingBeforeItIsAskedAgain() {
    onSsdAlone();
    f.extend(1, 1, 4);
    assertThat(look(1, 0, 9).pending()).isTrue();
    assertThat(f.effects.reads).as("the engine may have them itself").isEmpty();
    assertThat(look(1, 2, 9).pending()).isTrue();
    assertThat(f.effects.reads.getFirst().blocks())
        .extracting(BlockIdentity::hashLo)
        .containsExactly(hash(1, 2), hash(1, 3));
  }

  @Test
  void lookup_firstBlockRead_promisesAllAndTheLoadFollowsTheRead() {
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.core.ssd().readProgress(read.id(), 1);
    LookupResult found = look(1, 0, 9);
    assertThat(found.pending()).isFalse();
    assertThat(found.servableBlocks()).isEqualTo(4);
    assertThat(found.leaseId()).isPositive();
    long job = f.planLoad(1, 0, 4);
    f.core.go(job, 0);
    AvailableBlocks available = f.effects.available.getLast();
    assertThat(available.count()).isEqualTo(1);
    f.core.ssd().readProgress(read.id(), 3);
    assertThat(available.count()).isEqualTo(3);
    f.core.ssd().readEnded(read.id(), 4, SlotAllocator.FULL, true);
    assertThat(available.count()).isEqualTo(4);
    assertThat(available.isCut()).isFalse();
    f.core.loadPartDone(job, 0, true);
    assertThat(f.effects.done).endsWith(new Done(job, 0, JobStatus.OK));
    assertThat(f.servable(1, 4)).as("and it is in the host tier now").isEqualTo(4);
  }

  @Test
  void stats_requestsWaitForTheSsd_areCountedOnceAndAllAsHits() {
    onSsdAlone();
    CacheStats before = f.core.stats();
    SsdTransfer read = reading(1);
    look(1, 0, 9);
    f.core.ssd().readProgress(read.id(), 1);
    assertThat(look(1, 0, 9).pending()).isFalse();
    assertThat(look(1, 0, 9).pending()).as("the engine had no room for it").isFalse();
    CacheStats after = f.core.stats();
    assertThat(after.lookups() - before.lookups()).isEqualTo(1);
    assertThat(after.hits() - before.hits()).isEqualTo(1);
    assertThat(after.hitBlocks() - before.hitBlocks()).isEqualTo(4);
    assertThat(after.ssd().hits() - before.ssd().hits()).isEqualTo(1);
  }

  /** As {@link #onSsdAlone}, and a chain takes one block a turn. */
  private void onSsdAloneBlockByBlock(long transferBytes) {
    f =
        new CoreFixture(
            8,
            100,
            new SsdConfig(WritePolicy.THROUGH, 1000, 1000, 1000, transferBytes, 1, 0, SECOND));
    onSsdAlone();
    f.extend(1, 1, 4);
    look(1, 0, 9);
  }

  @Test
  void lookup_longChain_readsItsFirstBlockAtOnceAndTheRestInTurns() {
    onSsdAloneBlockByBlock(20);
    assertThat(look(1, 0, 9).pending()).isTrue();
    assertThat(f.effects.reads).extracting(read -> read.blocks().size()).containsExactly(1);
    f.core.ssd().readEnded(f.effects.reads.getFirst().id(), 1, SlotAllocator.FULL, true);
    assertThat(look(1, 0, 9).pending()).as("more of it is still to be promised").isTrue();
    assertThat(f.core.turn()).isOne();
    assertThat(f.core.turn()).isOne();
    assertThat(f.core.turn()).isOne();
    assertThat(f.core.turn()).as("nothing is left to do").isZero();
    assertThat(f.effects.reads).extracting(read -> read.blocks().size()).containsExactly(1, 2, 1);
    assertThat(look(1, 0, 9).servableBlocks()).isEqualTo(4);
  }

  @Test
  void endRequest_amongTheTurns_takesBackWhatWasNotHandedOver() {
    onSsdAloneBlockByBlock(20);
    look(1, 0, 9);
    f.core.turn();
    assertThat(f.effects.reads).as("the second block waits for a third").hasSize(1);
    f.core.endRequest(ENGINE, 1);
    assertThat(f.effects.cancelled).containsExactly(f.effects.reads.getFirst().id());
    f.core.ssd().readEnded(f.effects.reads.getFirst().id(), 0, SlotAllocator.FULL, true);
    assertThat(f.core.turn()).isZero();
    assertThat(f.core.stats().ssd().reads()).isZero();
    assertThat(f.core.stats().quarantinedSlots()).isZero();
    f.cached(3, 8);
    assertThat(f.slots.taken()).as("every slot can be had again").isEqualTo(8);
  }

  @Test
  void endRequest_anotherWaitsForWhatWasNotHandedOver_isHandedOver() {
    onSsdAloneBlockByBlock(40);
    look(1, 0, 9);
    f.core.turn();
    f.extend(2, 1, 2);
    look(2, 0, 9);
    look(2, 0, 9);
    f.core.turn();
    f.core.endRequest(ENGINE, 1);
    assertThat(f.effects.cancelled).as("both blocks are the other's too").isEmpty();
    for (SsdTransfer read : List.copyOf(f.effects.reads)) {
      f.core.ssd().readEnded(read.id(), read.blocks().size(), SlotAllocator.FULL, true);
    }
    assertThat(look(2, 0, 9).servableBlocks()).isEqualTo(2);
  }

  @Test
  void readEnded_rottenBlockAmongTheTurns_endsThem() {
    onSsdAloneBlockByBlock(20);
    look(1, 0, 9);
    f.core.turn();
    SsdTransfer read = f.effects.reads.getFirst();
    f.core.ssd().readEnded(read.id(), 0, read.ssdSlots()[0], true);
    assertThat(f.core.turn()).isZero();
    f.extend(9, 1, 4);
    assertThat(look(9, 0, 9).residentBlocks()).isZero();
    assertThat(f.core.stats().ssd().reads()).isZero();
    assertThat(f.core.stats().quarantinedSlots()).isZero();
  }

  @Test
  void readEnded_early_cutsTheLoadAndFreesTheRest() {
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.core.ssd().readProgress(read.id(), 1);
    look(1, 0, 9);
    long job = f.planLoad(1, 0, 4);
    f.core.go(job, 0);
    f.core.ssd().readEnded(read.id(), 2, SlotAllocator.FULL, true);
    AvailableBlocks available = f.effects.available.getLast();
    assertThat(available.count()).isEqualTo(2);
    assertThat(available.isCut()).isTrue();
    f.cached(3, 8);
    assertThat(f.slots.taken()).isEqualTo(8);
    assertThat(f.servable(1, 2)).as("what the load may copy stays").isEqualTo(2);
    f.core.loadPartDone(job, 0, false);
    assertThat(f.effects.done).endsWith(new Done(job, 0, JobStatus.FAILED));
    assertThat(f.core.stats().quarantinedSlots()).isZero();
  }

  @Test
  void readEnded_rottenBlock_isGoneWithAllBelowIt() {
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.core.ssd().readEnded(read.id(), 2, read.ssdSlots()[2], true);
    f.extend(9, 1, 4);
    LookupResult found = look(9, 0, 9);
    assertThat(found.residentBlocks()).isEqualTo(2);
    assertThat(found.servableBlocks()).isEqualTo(2);
    assertThat(f.effects.evicted)
        .contains(
            new Evicted(Tier.SSD, f.namespace, 0, hash(1, 2)),
            new Evicted(Tier.SSD, f.namespace, 0, hash(1, 3)));
    assertThat(f.core.stats().ssd().lostBlocks()).isPositive();
  }

  @Test
  void lookup_nothingReadInTime_getsWhatTheHostTierHas() {
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.now += SECOND;
    LookupResult found = look(1, 0, 9);
    assertThat(found.pending()).isFalse();
    assertThat(found.servableBlocks()).isZero();
    assertThat(f.effects.cancelled).containsExactly(read.id());
    assertThat(look(1, 0, 9).pending()).as("and is not kept waiting again").isFalse();
    f.core.ssd().readEnded(read.id(), 0, SlotAllocator.FULL, true);
  }

  @Test
  void endRequest_reading_takesTheReadBack() {
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.core.endRequest(ENGINE, 1);
    assertThat(f.effects.cancelled).containsExactly(read.id());
    f.core.ssd().readEnded(read.id(), 1, SlotAllocator.FULL, true);
    assertThat(f.core.stats().ssd().reads()).isZero();
    assertThat(f.servable(1, 1)).as("what was read is kept").isEqualTo(1);
  }

  @Test
  void lookup_twoRequestsOfOneChain_shareOneRead() {
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.extend(5, 1, 4);
    look(5, 0, 9);
    assertThat(look(5, 0, 9).pending()).isTrue();
    assertThat(f.effects.reads).hasSize(1);
    f.core.endRequest(ENGINE, 1);
    assertThat(f.effects.cancelled).as("the other waits still").isEmpty();
    f.core.ssd().readEnded(read.id(), 4, SlotAllocator.FULL, true);
    assertThat(look(5, 0, 9).servableBlocks()).isEqualTo(4);
  }

  @Test
  void readEnded_notDrained_keepsBothSlotsUntilItIs() {
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.core.ssd().readEnded(read.id(), 0, SlotAllocator.FULL, false);
    assertThat(f.core.stats().quarantinedSlots()).isEqualTo(4);
    f.core.resetNamespace(f.namespace);
    assertThat(f.slots.taken()).isEqualTo(4);
    assertThat(f.ssdSlots.taken()).isEqualTo(4);
    f.core.ssd().drained(read.id());
    assertThat(f.slots.taken()).isZero();
    assertThat(f.ssdSlots.taken()).isZero();
  }

  @Test
  void resetNamespace_writesUnderWay_freesTheirSlotsWhenTheyEnd() {
    f.cached(1, 4);
    SsdTransfer write = f.effects.writes.getFirst();
    f.core.resetNamespace(f.namespace);
    assertThat(f.slots.taken()).isEqualTo(4);
    assertThat(f.ssdSlots.taken()).isEqualTo(4);
    f.core.ssd().written(write.id(), ok(4), true);
    assertThat(f.slots.taken()).isZero();
    assertThat(f.ssdSlots.taken()).isZero();
    assertThat(f.core.stats().ssd().blocks()).isZero();
  }

  @Test
  void ssdFull_evictsItsOldestChainFromTheTail() {
    f = new CoreFixture(20, 6, CONFIG);
    f.cached(1, 4);
    f.writeAll();
    f.cached(2, 4);
    f.writeAll();
    assertThat(f.effects.evicted)
        .containsExactly(
            new Evicted(Tier.SSD, f.namespace, 0, hash(1, 3)),
            new Evicted(Tier.SSD, f.namespace, 0, hash(1, 2)));
    assertThat(f.servable(1, 4)).as("the host tier has them").isEqualTo(4);
  }

  @Test
  void writePolicy_secondHit_writesWhatALookupFound() {
    f = new CoreFixture(20, 100, CONFIG.withWritePolicy(WritePolicy.SECOND_HIT));
    f.cached(1, 4);
    assertThat(f.effects.writes).isEmpty();
    f.servable(1, 3);
    f.core.tick();
    assertThat(f.effects.writes.getFirst().blocks())
        .extracting(BlockIdentity::hashLo)
        .containsExactly(hash(1, 0), hash(1, 1), hash(1, 2));
  }

  @Test
  void writePolicy_back_writesWhatIsNextToGo() {
    f = new CoreFixture(16, 100, CONFIG.withWritePolicy(WritePolicy.BACK));
    f.cached(1, 8);
    assertThat(f.effects.writes).as("there is room").isEmpty();
    f.cached(2, 8);
    assertThat(f.effects.writes).isNotEmpty();
    assertThat(f.effects.writes.getFirst().blocks().getFirst().hashLo()).isEqualTo(hash(1, 0));
    f.writeAll();
    f.cached(3, 3);
    f.writeAll();
    f.extend(7, 1, 8);
    assertThat(look(7, 0, 9).ssdBlocks()).as("nothing of it is lost").isEqualTo(8);
  }

  @Test
  void adopt_survivors_areFoundByTheEngineThatComesLater() {
    CoreFixture before = new CoreFixture(8, 100, CONFIG);
    before.cached(1, 4);
    List<BlockIdentity> blocks = before.effects.writes.getFirst().blocks();
    RecordedEffects effects = new RecordedEffects();
    FakeSlots ssd = new FakeSlots(1000);
    CacheCore core =
        new CacheCore(
            CacheConfig.defaults(),
            EvictionSettings.DEFAULT,
            new FakeSlots(80),
            ssd,
            CONFIG,
            effects,
            () -> f.now,
            9);
    long[] slots = {ssd.allocate(10), ssd.allocate(10), ssd.allocate(10), ssd.allocate(10)};
    assertThat(core.ssd().adopt(blocks.get(1), slots[1]))
        .as("no parent yet")
        .isEqualTo(Adoption.NO_PARENT);
    assertThat(core.ssd().adopt(blocks.get(0), slots[0])).isEqualTo(Adoption.TAKEN);
    assertThat(core.ssd().adopt(blocks.get(0), slots[3]))
        .as("it is there")
        .isEqualTo(Adoption.REFUSED);
    assertThat(core.ssd().adopt(blocks.get(1), slots[1])).isEqualTo(Adoption.TAKEN);
    assertThat(core.ssd().adopt(blocks.get(2), slots[2])).isEqualTo(Adoption.TAKEN);
    core.openInstance(ENGINE, core.openNamespace(7, 7, 1, new long[] {10}));
    core.extendChain(ENGINE, 1, 0, CoreFixture.hashes(1, 0, 4), CoreFixture.HASH_BYTES, 4);
    assertThat(core.lookup(ENGINE, 1, 0, 0, 9).ssdBlocks()).isEqualTo(3);
    int other = core.openNamespace(8, 8, 1, new long[] {10});
    core.openInstance(2, other);
    core.extendChain(2, 1, 0, CoreFixture.hashes(1, 0, 4), CoreFixture.HASH_BYTES, 4);
    assertThat(core.lookup(2, 1, 0, 0, 9).ssdBlocks()).as("another model").isZero();
    core.resetNamespace(core.openNamespace(7, 7, 1, new long[] {10}));
    assertThat(core.ssd().adopt(blocks.get(0), slots[3]))
        .as("from before the reset")
        .isEqualTo(Adoption.REFUSED);
  }

  @Test
  void adopt_full_theFirstThatNothingHangsOnGivesWay() {
    CoreFixture before = new CoreFixture(40, 100, CONFIG);
    before.cached(1, 2);
    before.cached(2, 2);
    List<BlockIdentity> blocks =
        before.effects.writes.stream().flatMap(write -> write.blocks().stream()).toList();
    f = new CoreFixture(40, 100, CONFIG);
    long[] slots = {
      f.ssdSlots.allocate(10),
      f.ssdSlots.allocate(10),
      f.ssdSlots.allocate(10),
      f.ssdSlots.allocate(10)
    };
    assertThat(f.core.ssd().adopt(blocks.get(0), slots[0])).isEqualTo(Adoption.TAKEN);
    assertThat(f.core.ssd().adopt(blocks.get(1), slots[1], true))
        .as("only its own parent could give way")
        .isEqualTo(Adoption.REFUSED);
    assertThat(f.core.ssd().adopt(blocks.get(1), slots[1])).isEqualTo(Adoption.TAKEN);
    assertThat(f.core.ssd().adopt(blocks.get(2), slots[2], true)).isEqualTo(Adoption.TAKEN);
    assertThat(f.core.ssd().adopt(blocks.get(3), slots[3], true)).isEqualTo(Adoption.TAKEN);
    f.extend(1, 1, 2);
    f.extend(2, 2, 2);
    assertThat(look(1, 0, 2).ssdBlocks()).as("written first").isZero();
    assertThat(look(2, 0, 2).ssdBlocks()).as("written last").isEqualTo(2);
    assertThat(f.ssdSlots.taken()).isEqualTo(2);
  }

  @Test
  void lost_directory_takesItsBlocksAndWhatHangsOnThem() {
    f.cached(1, 4);
    long second = f.effects.writes.getFirst().ssdSlots()[1];
    f.writeAll();
    f.core.ssd().lost(slot -> slot == second);
    assertThat(f.servable(1, 4)).as("the host tier has all").isEqualTo(4);
    assertThat(f.core.stats().ssd().blocks()).isEqualTo(1);
    assertThat(f.ssdSlots.taken()).isEqualTo(1);
    f.cached(2, 8);
    f.extend(1, 1, 4);
    assertThat(look(1, 0, 9).ssdBlocks()).isEqualTo(1);
  }

  @Test
  void lost_blockThatWaitsForItsParent_isNotHeldWhenThatComes() {
    f =
        new CoreFixture(
            8, 100, new SsdConfig(WritePolicy.THROUGH, 1000, 1000, 1000, 10, 64, 0, SECOND));
    f.cached(1, 2);
    SsdTransfer parent = f.effects.writes.get(0);
    SsdTransfer child = f.effects.writes.get(1);
    f.core.ssd().written(child.id(), ok(1), true);
    f.core.ssd().lost(slot -> slot == child.ssdSlots()[0]);
    f.core.ssd().written(parent.id(), ok(1), true);
    assertThat(f.core.stats().ssd().blocks()).isEqualTo(1);
    assertThat(f.ssdSlots.taken()).isEqualTo(1);
    assertThat(f.servable(1, 2)).as("the host tier has both").isEqualTo(2);
  }

  @Test
  void lookup_allThatFoundRoomIsThere_isAnsweredAtOnce() {
    f =
        new CoreFixture(
            8, 100, new SsdConfig(WritePolicy.THROUGH, 1000, 1000, 20, 1000, 64, 0, SECOND));
    onSsdAlone();
    SsdTransfer read = reading(1);
    assertThat(read.blocks()).as("no more may be read at a time").hasSize(2);
    f.core.ssd().readEnded(read.id(), 2, SlotAllocator.FULL, true);
    LookupResult found = look(1, 0, 9);
    assertThat(found.pending()).isFalse();
    assertThat(found.servableBlocks()).isEqualTo(2);
    assertThat(found.leaseId()).isPositive();
    assertThat(f.core.stats().ssd().promotionsDeclined()).isZero();
  }

  @Test
  void writes_whileTheSsdStalls_waitAndEmptyNothing() {
    f.cached(1, 4);
    f.writeAll();
    f.ssdSlots.stalled = true;
    f.cached(2, 4);
    assertThat(f.effects.writes).isEmpty();
    assertThat(f.core.stats().ssd().blocks()).as("evicting would make no room").isEqualTo(4);
    f.ssdSlots.stalled = false;
    f.core.tick();
    f.writeAll();
    assertThat(f.core.stats().ssd().blocks()).isEqualTo(8);
  }

  @Test
  void writes_evictingGivesNoRoom_evictNoMoreThanForOneBlock() {
    f = new CoreFixture(20, 10, CONFIG);
    for (long chain = 1; chain <= 10; chain++) {
      f.cached(chain, 1);
    }
    f.writeAll();
    f.ssdSlots.stalled = true;
    for (long chain = 21; chain <= 25; chain++) {
      f.cached(chain, 1);
    }
    f.ssdSlots.stalled = false;
    f.ssdSlots.full = true;
    long before = f.core.stats().ssd().blocks();
    f.core.tick();
    assertThat(before - f.core.stats().ssd().blocks()).isBetween(1L, 4L);
  }

  /** The SSD has brought four blocks in two seconds, and others are asked for. */
  private void slowSsd(long tokensPerSecond, long later) {
    f = new CoreFixture(8, 100, LARGE.withRecompute(tokensPerSecond), 1 << 20);
    f.core.setBlockTokens(f.namespace, 16);
    onSsdAlone();
    SsdTransfer read = reading(1);
    f.now += 2 * SECOND;
    f.core.ssd().readEnded(read.id(), 4, SlotAllocator.FULL, true);
    f.core.endRequest(ENGINE, 1);
    f.cached(3, 8);
    f.writeAll();
    f.now += later;
    f.extend(2, 2, 4);
    look(2, 0, 9);
  }

  private boolean readAgain(long tokensPerSecond, long later) {
    slowSsd(tokensPerSecond, later);
    boolean pending = look(2, 0, 9).pending();
    assertThat(f.effects.reads).hasSize(pending ? 2 : 1);
    assertThat(f.core.stats().ssd().promotionsDeclined()).isEqualTo(pending ? 0 : 1);
    return pending;
  }

  @Test
  void lookup_computingIsFasterThanTheSsd_readsNothing() {
    assertThat(readAgain(33, 0)).as("64 tokens, in 2 s by either").isFalse();
    assertThat(readAgain(31, 0)).isTrue();
  }

  @Test
  void tick_requestWaitsInTheQueue_readsAheadOnlyWhatComputingWouldNotBringSooner() {
    slowSsd(33, 0);
    f.now += SECOND;
    f.core.tick();
    assertThat(f.effects.reads).as("64 tokens, in 2 s by either").hasSize(1);
    slowSsd(31, 0);
    f.now += SECOND;
    f.core.tick();
    assertThat(f.effects.reads).hasSize(2);
  }

  @Test
  void lookup_speedOfEnginesOrOfTheSsdUnknown_reads() {
    assertThat(readAgain(0, 0)).isTrue();
    assertThat(readAgain(1_000_000, 61 * SECOND)).as("the SSD was slow long ago").isTrue();
  }

  @Test
  void setRecompute_whileBlocksAreThere_countsFromTheNextLookupOn() {
    f = new CoreFixture(200, 1000, LARGE, 1 << 20);
    f.core.setBlockTokens(f.namespace, 16);
    onSsdAloneSlowly();
    f.core.setRecompute(1_000);
    f.extend(2, 2, 4);
    look(2, 0, 9);
    assertThat(look(2, 0, 9).pending()).as("64 tokens, in 64 ms or in 2 s").isFalse();
    f.core.setRecompute(1);
    f.extend(5, 2, 4);
    look(5, 0, 9);
    assertThat(look(5, 0, 9).pending()).isTrue();
  }

  @Test
  void lookup_computingIsSeenToBeFaster_readsNothing() {
    f = new CoreFixture(200, 1000, LARGE, 1 << 20);
    onSsdAloneSlowly();
    for (int request = 50; request < 53; request++) {
      f.extend(request, request, 128);
      for (int chunk = 0; chunk < 4; chunk++) {
        f.planSave(request, 32 * chunk, 32);
        f.now += SECOND; // 32 blocks a second
      }
      f.core.endRequest(ENGINE, request);
    }
    f.extend(2, 2, 4);
    look(2, 0, 9);
    assertThat(look(2, 0, 9).pending()).as("the SSD brings 2 blocks a second").isFalse();
    assertThat(f.core.stats().ssd().promotionsDeclined()).isOne();
  }

  /** Chains 1 and 2 are on the SSD alone, and it has brought the four blocks of chain 1 in 2 s. */
  private void onSsdAloneSlowly() {
    f.cached(1, 4);
    f.cached(2, 4);
    f.writeAll();
    f.cached(3, 200);
    f.writeAll();
    SsdTransfer read = reading(1);
    f.now += 2 * SECOND;
    f.core.ssd().readEnded(read.id(), 4, SlotAllocator.FULL, true);
    f.core.endRequest(ENGINE, 1);
  }
}
