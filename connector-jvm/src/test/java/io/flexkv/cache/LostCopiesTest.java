package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.SECOND;
import static org.assertj.core.api.Assertions.assertThat;

import java.util.function.LongPredicate;
import org.junit.jupiter.api.Test;

/** A lost SSD directory that held more blocks than are forgotten at once. */
class LostCopiesTest {
  private static final SsdConfig CONFIG =
      new SsdConfig(WritePolicy.THROUGH, 1 << 20, 1 << 20, 1 << 20, 1000, 64, 0, SECOND / 2);
  private static final int CHAINS = 128;
  private static final int DEPTH = 2 * LostCopies.AT_ONCE / CHAINS;
  private static final int IN_HOST = 1000;

  /** More children than a turn would count otherwise. */
  private static final int MANY = LostCopies.PORTION + DEPTH + 200;

  private final CoreFixture f = new CoreFixture(IN_HOST, CHAINS * DEPTH, CONFIG);

  private void fill() {
    for (long chain = 1; chain <= CHAINS; chain++) {
      f.cached(chain, DEPTH);
      do {
        f.writeAll();
        f.core.tick();
      } while (!f.effects.writes.isEmpty());
    }
    assertThat(f.core.stats().ssd().blocks()).isEqualTo(CHAINS * DEPTH);
  }

  /** Turns until nothing is left to do; each is short. */
  private int turns() {
    int turns = 0;
    for (int looked; (looked = f.core.turn()) > 0; turns++) {
      assertThat(looked).isLessThanOrEqualTo(LostCopies.PORTION + 2 * DEPTH);
      f.servable(1 + turns % CHAINS, DEPTH);
    }
    return turns;
  }

  private void assertNothingLiesIn(LongPredicate lost) {
    BlockIndex index = f.core.index();
    for (int entry = 0; entry < index.handles(); entry++) {
      boolean held =
          index.isEntry(entry) && index.getInt(entry, EntryLayout.SSD) == EntryLayout.SSD_HELD;
      assertThat(held && lost.test(index.getLong(entry, EntryLayout.SSD_SLOT))).isFalse();
    }
    TreeChecker.check(f.core);
  }

  @Test
  void lost_manyBlocks_areForgottenInPortions_whileLookupsAreAnswered() {
    fill();
    LongPredicate lost = slot -> slot % 3 == 0;
    f.core.ssd().lost(lost);
    assertThat(f.core.stats().ssd().blocks()).as("some, at once").isLessThan(CHAINS * DEPTH);
    assertThat(turns()).isGreaterThan(CHAINS * DEPTH / LostCopies.PORTION);
    assertNothingLiesIn(lost);
    assertThat(f.core.stats().ssd().blocks()).isLessThan(CHAINS * 3);
    assertThat(f.servable(CHAINS, IN_HOST / 2)).as("the last one is in the host tier").isPositive();
  }

  @Test
  void lost_meanwhileMoreAreLost_bothGo() {
    fill();
    f.core.ssd().lost(slot -> slot % 7 == 0);
    f.core.turn();
    f.core.ssd().lost(slot -> slot % 7 == 1);
    turns();
    assertNothingLiesIn(slot -> slot % 7 <= 1);
  }

  private long slotOf(long chain, int block) {
    return f.core.index().getLong(entry(chain, block), EntryLayout.SSD_SLOT);
  }

  private int entry(long chain, int block) {
    return TreeChecker.find(f.core, f.namespace, 0, chain, CoreFixture.hash(chain, block));
  }

  /** In an entry that has been looked at already, under one that has not. */
  @Test
  void lost_blockWrittenMeanwhileBelowALostOne_goesToo() {
    fill();
    long atOnce = slotOf(1, 0);
    long later = slotOf(CHAINS, 0);
    LongPredicate lost = slot -> slot == atOnce || slot == later;
    f.core.ssd().lost(lost);
    assertThat(f.servable(1, DEPTH)).isZero();
    f.extend(5_000, CHAINS, DEPTH + 1);
    long job = f.planSave(5_000, DEPTH, 1);
    f.core.go(job, 0);
    f.core.savePartDone(job, 0, CoreFixture.ok(1));
    f.core.endRequest(ENGINE, 5_000);
    f.writeAll();
    assertThat(f.core.stats().ssd().blocks()).isEqualTo((CHAINS - 1) * DEPTH + 1);
    turns();
    assertNothingLiesIn(lost);
    assertThat(f.core.stats().ssd().blocks()).isEqualTo((CHAINS - 2) * DEPTH);
  }

  /** Saves so many children of a block; their writes do not end. */
  private void children(long chain, int block, int count) {
    byte[] hashes = CoreFixture.hashes(chain, 0, block + 2);
    for (int i = 0; i < count; i++) {
      long request = 10_000L + i;
      byte[] own = CoreFixture.hashes(request, block + 1, 1);
      System.arraycopy(own, 0, hashes, hashes.length - own.length, own.length);
      f.core.extendChain(ENGINE, request, 0, hashes, CoreFixture.HASH_BYTES, block + 2);
      long job = f.planSave(request, block + 1, 1);
      f.core.go(job, 0);
      f.core.savePartDone(job, 0, CoreFixture.ok(1));
      f.core.endRequest(ENGINE, request);
    }
  }

  @Test
  void lost_blockWithManyChildren_noneOfThemIsLookedAt() {
    fill();
    children(CHAINS, 0, MANY);
    long slot = slotOf(CHAINS, 0);
    int blocks = f.core.index().size();
    f.core.ssd().lost(s -> s == slot);
    turns();
    assertNothingLiesIn(s -> s == slot);
    assertThat(f.core.index().size()).as("all is in the host tier").isEqualTo(blocks);
  }

  @Test
  void lost_blockNotInTheHostTier_whatGoesWithItGoesInPortions() {
    fill();
    long chain = CHAINS - 8;
    int last = DEPTH - 1;
    children(chain, last, MANY);
    long slot = slotOf(chain, last);
    f.core.ssd().lost(s -> s == slot);
    int turns = 0;
    int before = f.core.index().size();
    int left = before;
    while (f.core.turn() > 0) {
      int now = f.core.index().size();
      assertThat(left - now).isLessThanOrEqualTo(LostCopies.PORTION);
      turns += left > now ? 1 : 0;
      if (turns == 1 && left > now) {
        TreeChecker.check(f.core);
      }
      left = now;
    }
    assertThat(turns).isGreaterThan(MANY / LostCopies.PORTION);
    assertThat(before - left).isEqualTo(MANY + 1);
    assertNothingLiesIn(s -> s == slot);
    assertThat(f.core.stats().ssd().lostBlocks()).isOne();
    assertThat(entry(10_000, last + 1)).isEqualTo(BlockIndex.NONE);
    assertThat(entry(chain, last - 1)).as("is above").isNotEqualTo(BlockIndex.NONE);
  }

  @Test
  void lost_blocksUnderALease_goWithIt() {
    fill();
    long request = 5_000;
    f.extend(request, 1, DEPTH);
    f.core.lookup(ENGINE, request, 0, 0, DEPTH);
    f.core.lookup(ENGINE, request, 0, 0, DEPTH);
    assertThat(f.core.stats().leases()).isOne();
    LongPredicate all = slot -> true;
    f.core.ssd().lost(all);
    f.effects.reads.forEach(read -> f.core.ssd().readEnded(read.id(), 0, -1, true));
    turns();
    assertNothingLiesIn(all);
    assertThat(f.core.stats().leases()).isZero();
    assertThat(f.core.stats().ssd().blocks()).isZero();
    assertThat(f.ssdSlots.usedBytes()).isZero();
  }
}
