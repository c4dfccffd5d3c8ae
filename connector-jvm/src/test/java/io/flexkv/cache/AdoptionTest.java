package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.SsdReports.Adoption;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/** Blocks found after a restart whose parents come, go and come back meanwhile. */
class AdoptionTest {
  private static final SsdConfig CONFIG =
      new SsdConfig(WritePolicy.THROUGH, 1000, 1000, 1000, 1000, 64, 0, CoreFixture.SECOND);
  private static final int MANY = 3_000;

  private final CoreFixture f = new CoreFixture(100, MANY, CONFIG);

  private Adoption adopt(BlockIdentity block, long slot) {
    return f.core.ssd().adopt(block, slot);
  }

  /** As {@link CoreFixture#hashes} has it. */
  private static BlockIdentity block(long chain, int i) {
    boolean child = i > 0;
    return new BlockIdentity(
        7,
        7,
        0,
        0,
        chain,
        CoreFixture.hash(chain, i),
        child,
        child ? chain : 0,
        child ? CoreFixture.hash(chain, i - 1) : 0,
        10);
  }

  @Test
  void adopt_parentLostSinceItCame_isNotTakenForThere() {
    long slot = f.ssdSlots.allocate(10);
    assertThat(adopt(block(1, 0), slot)).isEqualTo(Adoption.TAKEN);
    f.core.ssd().lost(lost -> lost == slot);
    assertThat(adopt(block(1, 1), f.ssdSlots.allocate(10))).isEqualTo(Adoption.NO_PARENT);
  }

  @Test
  void adopt_parentLostAndSavedAnew_isFoundWhereItIsNow() {
    long first = f.ssdSlots.allocate(10);
    long second = f.ssdSlots.allocate(10);
    adopt(block(1, 0), first);
    adopt(block(2, 0), second);
    f.core.ssd().lost(lost -> lost == first);
    f.core.ssd().lost(lost -> lost == second);
    f.cached(1, 1); // in the row of the other chain's block, which went last
    f.writeAll();
    assertThat(adopt(block(1, 1), f.ssdSlots.allocate(10))).isEqualTo(Adoption.TAKEN);
    assertThat(f.core.stats().ssd().blocks()).isEqualTo(2);
    TreeChecker.check(f.core);
  }

  /** More chains side by side than {@link SsdReports} remembers parents of. */
  @Test
  void adopt_inBatchesMadeReadyBefore_allAreTakenUnderTheirParents() {
    List<BlockIdentity> blocks = new ArrayList<>();
    for (int i = 0; i < 2; i++) {
      for (int chain = 1; chain <= MANY / 2; chain++) {
        blocks.add(block(chain, i));
      }
    }
    FoundBlocks found = new FoundBlocks(100);
    for (int at = 0; at < blocks.size(); at += 100) {
      found.clear();
      blocks.subList(at, at + 100).forEach(found::add);
      f.core.ssd().approach(found, 0, 100);
      for (int i = 0; i < 100; i++) {
        assertThat(f.core.ssd().adopt(found, i, f.ssdSlots.allocate(10), false))
            .isEqualTo(Adoption.TAKEN);
      }
    }
    assertThat(f.effects.stored.stream().filter(stored -> stored.hasParent()))
        .hasSize(MANY / 2)
        .allMatch(stored -> stored.hash() == stored.parentHash() + 1);
    TreeChecker.check(f.core);
  }

  @Test
  void adopt_blocksOfTwoGenerationsMadeReadyTogether_onlyThoseOfThePresentOneAreTaken() {
    adopt(block(4, 0), f.ssdSlots.allocate(10));
    FoundBlocks found = new FoundBlocks(2);
    found.add(block(1, 0));
    BlockIdentity now = block(2, 0);
    found.add(
        new BlockIdentity(7, 7, 1, 0, now.hashHi(), now.hashLo(), false, 0, 0, now.slotBytes()));
    f.core.resetNamespace(f.namespace);
    long slot = f.ssdSlots.allocate(10);
    assertThat(f.core.ssd().adopt(found, 0, slot, false)).isEqualTo(Adoption.REFUSED);
    assertThat(f.core.ssd().adopt(found, 1, slot, false)).isEqualTo(Adoption.TAKEN);
    f.extend(3, 2, 1);
    assertThat(f.core.lookup(CoreFixture.ENGINE, 3, 0, 0, 1).ssdBlocks()).isEqualTo(1);
  }
}
