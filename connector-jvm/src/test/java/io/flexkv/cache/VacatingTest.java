package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

/** A tier that becomes smaller: what lies in the part that goes is freed as soon as it may. */
class VacatingTest {
  private static final SsdConfig SSD = SsdConfig.forHost(1000).withWait(CoreFixture.SECOND);

  private static void shrink(CoreFixture fixture, int blocks) {
    fixture.slots.resize(blocks * 10L);
    fixture.core.hostResized();
    vacate(fixture);
  }

  private static void vacate(CoreFixture fixture) {
    while (fixture.core.turn() > 0) {
      TreeChecker.check(fixture.core);
    }
  }

  private static void tick(CoreFixture fixture) {
    fixture.core.tick();
    vacate(fixture);
  }

  @Test
  void vacate_endOfAChainLeaves_theRestStaysServable() {
    CoreFixture fixture = new CoreFixture(10, 1);
    fixture.cached(1, 6);
    fixture.cached(2, 4);
    shrink(fixture, 4);
    assertThat(fixture.servable(1, 6)).isEqualTo(4);
    assertThat(fixture.servable(2, 4)).isZero();
    assertThat(fixture.slots.taken()).isEqualTo(4);
    assertThat(fixture.slots.shrinks()).isFalse();
    assertThat(fixture.core.stats().evictedBlocks()).isEqualTo(6);
  }

  @Test
  void vacate_twiceSmaller_everyChainKeepsWhatLiesBeforeTheEnd() {
    CoreFixture fixture = new CoreFixture(10, 1);
    fixture.cached(3, 2); // slots 0 and 1
    fixture.cached(4, 6); // slots 2 to 7
    shrink(fixture, 5);
    assertThat(fixture.servable(3, 2)).isEqualTo(2);
    assertThat(fixture.servable(4, 6)).isEqualTo(3);
    shrink(fixture, 1);
    assertThat(fixture.servable(3, 2)).isOne();
    assertThat(fixture.servable(4, 6)).isZero();
  }

  /** Chain 5 in slots 4, 3, 2: its first block leaves, its last ones lie in the part that stays. */
  @Test
  void vacate_firstBlockOfAChainLeaves_theWholeChainGoes() {
    CoreFixture fixture = new CoreFixture(5, 1);
    fixture.cached(1, 4); // slots 0 to 3
    fixture.cached(5, 1); // slot 4
    fixture.extend(5, 5, 3);
    long job = fixture.planSave(5, 1, 2); // evicts two of chain 1
    fixture.core.go(job, 0);
    fixture.core.savePartDone(job, 0, CoreFixture.ok(2));
    fixture.core.endRequest(CoreFixture.ENGINE, 5);
    assertThat(fixture.servable(5, 3)).isEqualTo(3);
    shrink(fixture, 4);
    assertThat(fixture.servable(5, 3)).isZero();
    assertThat(fixture.servable(1, 4)).isEqualTo(2);
  }

  @Test
  void vacate_blockUnderLease_staysUntilTheLeaseEnds() {
    CoreFixture fixture = new CoreFixture(10, 1);
    fixture.cached(1, 6);
    long request = lease(fixture, 1, 6);
    shrink(fixture, 2);
    assertThat(fixture.slots.taken()).isEqualTo(6);
    assertThat(fixture.slots.shrinks()).isTrue();
    fixture.core.endRequest(CoreFixture.ENGINE, request);
    assertThat(fixture.core.turn()).as("between rounds").isZero();
    tick(fixture);
    assertThat(fixture.slots.taken()).isEqualTo(2);
    assertThat(fixture.slots.shrinks()).isFalse();
  }

  @Test
  void vacate_blockThatIsLoaded_staysUntilTheCopyHasEnded() {
    CoreFixture fixture = new CoreFixture(10, 1);
    fixture.cached(1, 6);
    fixture.extend(9, 1, 6);
    fixture.core.lookup(CoreFixture.ENGINE, 9, 0, 0, 6);
    long load = fixture.planLoad(9, 0, 6);
    fixture.core.go(load, 0);
    shrink(fixture, 2);
    tick(fixture);
    assertThat(fixture.slots.taken()).isEqualTo(6);
    fixture.core.loadPartDone(load, 0, true);
    tick(fixture);
    assertThat(fixture.slots.taken()).isEqualTo(2);
  }

  @Test
  void vacate_saveUnderWay_goesWhenItIsThere() {
    CoreFixture fixture = new CoreFixture(10, 1);
    fixture.extend(1, 1, 6);
    long save = fixture.planSave(1, 0, 6);
    fixture.core.go(save, 0);
    shrink(fixture, 2);
    assertThat(fixture.slots.taken()).isEqualTo(6);
    fixture.core.savePartDone(save, 0, CoreFixture.ok(6));
    fixture.core.endRequest(CoreFixture.ENGINE, 1);
    tick(fixture);
    assertThat(fixture.servable(1, 6)).isEqualTo(2);
    assertThat(fixture.slots.taken()).isEqualTo(2);
  }

  /** The prefix of chains 5 and 6, in use by either in turn, leaves; chain 6 needs not. */
  @Test
  void vacate_prefixThatABranchHolds_theOtherBranchesStayUntilItMayGo() {
    CoreFixture fixture = forked(4);
    long first = prefixed(fixture, 6_000, 5);
    shrink(fixture, 4);
    fixture.core.endRequest(CoreFixture.ENGINE, first);
    for (int round = 0; round < 5; round++) {
      long request = prefixed(fixture, 7_000 + round, 5 + round % 2);
      tick(fixture);
      assertThat(fixture.slots.taken()).as("all").isEqualTo(5);
      fixture.core.endRequest(CoreFixture.ENGINE, request);
    }
    tick(fixture);
    assertThat(fixture.slots.shrinks()).isFalse();
    assertThat(fixture.slots.taken()).as("both branches went with it").isZero();
  }

  /** As above, but a branch comes into use when the round has noted already that it is not. */
  @Test
  void vacate_prefixThatIsUsedDuringARound_theOtherBranchesStay() {
    CoreFixture fixture = forked(2_000);
    fixture.slots.resize(2_000 * 10L);
    fixture.core.hostResized();
    assertThat(fixture.core.turn()).as("the branches are in what it looked at").isEqualTo(1_024);
    long request = prefixed(fixture, 6_000, 5);
    vacate(fixture);
    assertThat(fixture.slots.taken()).as("all").isEqualTo(2_001);
    fixture.core.endRequest(CoreFixture.ENGINE, request);
    tick(fixture);
    assertThat(fixture.slots.taken()).as("all but the prefix and its branches").isEqualTo(1_996);
  }

  /** Its last slot has a block with two children, in two chains; others of four have the rest. */
  private static CoreFixture forked(int slotsBefore) {
    CoreFixture fixture = new CoreFixture(slotsBefore + 1, 1);
    for (int chain = 0; chain < slotsBefore / 4; chain++) {
      fixture.cached(1_000 + chain, 4);
    }
    save(fixture, prefixed(fixture, 5_000, 5), 0, 1);
    for (int chain = 5; chain <= 6; chain++) { // each evicts two of chain 1000
      save(fixture, prefixed(fixture, 5_000 + chain, chain), 1, 2);
    }
    return fixture;
  }

  /** A request for three blocks of a chain, of which all chains share the first, under lease. */
  private static long prefixed(CoreFixture fixture, long request, long chain) {
    byte[] hashes = CoreFixture.hashes(chain, 0, 3);
    System.arraycopy(CoreFixture.hashes(99, 0, 1), 0, hashes, 0, CoreFixture.HASH_BYTES);
    fixture.core.extendChain(CoreFixture.ENGINE, request, 0, hashes, CoreFixture.HASH_BYTES, 3);
    fixture.core.lookup(CoreFixture.ENGINE, request, 0, 0, 3);
    return request;
  }

  private static void save(CoreFixture fixture, long request, int first, int count) {
    long job = fixture.planSave(request, first, count);
    fixture.core.go(job, 0);
    fixture.core.savePartDone(job, 0, CoreFixture.ok(count));
    fixture.core.endRequest(CoreFixture.ENGINE, request);
  }

  @Test
  void hostResized_largerAgain_nothingMoreGoesAndThereIsRoom() {
    CoreFixture fixture = new CoreFixture(10, 1);
    fixture.cached(1, 6);
    long request = lease(fixture, 1, 6);
    shrink(fixture, 2);
    fixture.slots.resize(120);
    fixture.core.hostResized();
    fixture.core.endRequest(CoreFixture.ENGINE, request);
    tick(fixture);
    assertThat(fixture.servable(1, 6)).isEqualTo(6);
    fixture.cached(2, 6);
    assertThat(fixture.servable(2, 6)).isEqualTo(6);
    assertThat(fixture.core.stats().evictedBlocks()).isZero();
  }

  @Test
  void vacate_blockThatIsOnTheSsd_isServableFromThere() {
    CoreFixture fixture = new CoreFixture(10, 20, SSD);
    fixture.cached(1, 6);
    fixture.writeAll();
    shrink(fixture, 2);
    CacheStats stats = fixture.core.stats();
    assertThat(stats.hostBlocks()).isEqualTo(2);
    assertThat(stats.readyBlocks()).isEqualTo(6);
  }

  @Test
  void vacate_writeBack_blocksGetToTheSsdFirst() {
    CoreFixture fixture = new CoreFixture(20, 20, SSD.withWritePolicy(WritePolicy.BACK));
    fixture.cached(1, 6);
    assertThat(fixture.effects.writes).isEmpty();
    shrink(fixture, 2);
    assertThat(fixture.slots.taken()).as("they are being written").isEqualTo(6);
    for (int round = 0; round < 6; round++) {
      fixture.writeAll();
      tick(fixture);
    }
    assertThat(fixture.slots.taken()).isEqualTo(2);
    assertThat(fixture.core.stats().readyBlocks()).isEqualTo(6);
  }

  @Test
  void vacate_writeBackButTheSsdTakesNothing_goesAfterSomeRounds() {
    CoreFixture fixture = new CoreFixture(20, 20, SSD.withWritePolicy(WritePolicy.BACK));
    fixture.cached(1, 6);
    fixture.ssdSlots.stalled = true;
    shrink(fixture, 2);
    assertThat(fixture.slots.taken()).isEqualTo(6);
    for (int round = 0; round < 20; round++) {
      tick(fixture);
    }
    assertThat(fixture.slots.taken()).isEqualTo(2);
  }

  private static void shrinkSsd(CoreFixture fixture, int blocks) {
    fixture.ssdSlots.resize(blocks * 10L);
    fixture.core.ssdResized();
    vacate(fixture);
  }

  @Test
  void vacateSsd_blocksInTheHostTierToo_staysServable() {
    CoreFixture fixture = new CoreFixture(10, 10, SSD);
    fixture.cached(1, 6);
    fixture.writeAll();
    shrinkSsd(fixture, 2);
    assertThat(fixture.ssdSlots.taken()).isEqualTo(2);
    assertThat(fixture.servable(1, 6)).isEqualTo(6);
    assertThat(fixture.core.stats().ssd().blocks()).isEqualTo(2);
  }

  @Test
  void vacateSsd_blocksOnTheSsdAlone_endWithTheirCopies() {
    CoreFixture fixture = new CoreFixture(10, 10, SSD);
    fixture.cached(1, 6);
    fixture.writeAll();
    shrink(fixture, 1);
    assertThat(fixture.core.stats().readyBlocks()).isEqualTo(6);
    shrinkSsd(fixture, 4);
    assertThat(fixture.core.stats().readyBlocks()).isEqualTo(4);
    assertThat(fixture.ssdSlots.shrinks()).isFalse();
  }

  /** Block 5 was saved when blocks 3 and 4 were on the SSD alone, and is not written. */
  @Test
  void vacateSsd_blockSavedUnderOneThatGoes_goesWithIt() {
    CoreFixture fixture = new CoreFixture(10, 5, SSD);
    fixture.cached(1, 5);
    fixture.writeAll();
    shrink(fixture, 3);
    fixture.ssdSlots.full = true;
    fixture.extend(7, 1, 6);
    save(fixture, 7, 5, 1);
    assertThat(fixture.core.stats().readyBlocks()).isEqualTo(6);
    shrinkSsd(fixture, 4);
    tick(fixture);
    assertThat(fixture.ssdSlots.shrinks()).isFalse();
    assertThat(fixture.core.stats().readyBlocks()).isEqualTo(4);
  }

  @Test
  void vacateSsd_blockThatIsWritten_goesWhenItIsThere() {
    CoreFixture fixture = new CoreFixture(10, 10, SSD);
    fixture.cached(1, 6);
    shrinkSsd(fixture, 2);
    assertThat(fixture.ssdSlots.taken()).isEqualTo(6);
    fixture.writeAll();
    tick(fixture);
    assertThat(fixture.ssdSlots.taken()).isEqualTo(2);
    assertThat(fixture.servable(1, 6)).isEqualTo(6);
  }

  @Test
  void vacateSsd_blockUnderLease_staysUntilTheLeaseEnds() {
    CoreFixture fixture = new CoreFixture(10, 10, SSD);
    fixture.cached(1, 6);
    fixture.writeAll();
    long request = lease(fixture, 1, 6);
    shrinkSsd(fixture, 2);
    assertThat(fixture.ssdSlots.taken()).isEqualTo(6);
    fixture.core.endRequest(CoreFixture.ENGINE, request);
    tick(fixture);
    assertThat(fixture.ssdSlots.taken()).isEqualTo(2);
  }

  @Test
  void vacateSsd_largerAgain_nothingMoreGoes() {
    CoreFixture fixture = new CoreFixture(10, 10, SSD);
    fixture.cached(1, 6);
    fixture.writeAll();
    long request = lease(fixture, 1, 6);
    shrinkSsd(fixture, 2);
    fixture.ssdSlots.resize(100);
    fixture.core.ssdResized();
    fixture.core.endRequest(CoreFixture.ENGINE, request);
    tick(fixture);
    assertThat(fixture.ssdSlots.taken()).isEqualTo(6);
  }

  @Test
  void vacate_manyBlocks_isDoneInPortions() {
    CoreFixture fixture = new CoreFixture(5_000, 1);
    for (int chain = 1; chain <= 500; chain++) {
      fixture.cached(chain, 10);
    }
    fixture.slots.resize(1_000 * 10L);
    fixture.core.hostResized();
    int calls = 0;
    for (int looked; (looked = fixture.core.turn()) > 0; calls++) {
      assertThat(looked).isLessThanOrEqualTo(1_024 + 11);
    }
    assertThat(calls).isGreaterThan(4);
    assertThat(fixture.slots.taken()).isEqualTo(1_000);
  }

  private static long lease(CoreFixture fixture, long chain, int count) {
    long request = 9_000 + chain;
    fixture.extend(request, chain, count);
    assertThat(fixture.core.lookup(CoreFixture.ENGINE, request, 0, 0, count).leaseId())
        .isPositive();
    return request;
  }
}
