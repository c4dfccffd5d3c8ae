package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.SECOND;
import static io.flexkv.cache.CoreFixture.hash;
import static io.flexkv.cache.CoreFixture.ok;
import static io.flexkv.cache.CoreFixture.okBut;
import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.RecordedEffects.Done;
import io.flexkv.cache.RecordedEffects.SaveDone;
import io.flexkv.cache.RecordedEffects.Stored;
import org.junit.jupiter.api.Test;

class SaveTest {
  private final CoreFixture f = new CoreFixture(10, 2);

  @Test
  void savePartDone_allPartsIn_isServable() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.go(job, 0);
    f.core.go(job, 1);
    assertThat(f.effects.starts).hasSize(2);
    assertThat(f.effects.lastStart().gpuBlocks).containsExactly(100, 101, 102, 103);
    assertThat(f.effects.lastStart().generations).containsExactly(1, 2, 3, 4);
    assertThat(f.effects.lastStart().slots).hasSize(4).doesNotHaveDuplicates();
    f.core.savePartDone(job, 0, ok(4));
    assertThat(f.servable(1, 4)).isZero();
    f.core.savePartDone(job, 1, ok(4));
    assertThat(f.servable(1, 4)).isEqualTo(4);
    assertThat(f.effects.saves).containsExactly(new SaveDone(job, 4, 0, 0));
    assertThat(f.effects.done)
        .containsExactly(new Done(job, 0, JobStatus.OK), new Done(job, 1, JobStatus.OK));
    assertThat(f.effects.stored)
        .startsWith(
            new Stored(Tier.HOST, f.namespace, 0, hash(1, 0), 0, false),
            new Stored(Tier.HOST, f.namespace, 0, hash(1, 1), hash(1, 0), true));
  }

  @Test
  void savePartDone_onePartLostWhileALaterBlockIsReady_dropsTheSubtree() {
    f.extend(1, 1, 6);
    long first = f.planSave(1, 0, 3);
    long second = f.planSave(1, 3, 3);
    for (int part = 0; part < 2; part++) {
      f.core.go(first, part);
      f.core.go(second, part);
      f.core.savePartDone(second, part, ok(3));
    }
    f.core.savePartDone(first, 0, ok(3));
    assertThat(f.core.stats().pendingBlocks()).isEqualTo(6);
    f.core.savePartDone(first, 1, okBut(3, 1));
    assertThat(f.servable(1, 6)).isEqualTo(1);
    assertThat(f.core.stats().pendingBlocks()).isZero();
    assertThat(f.slots.taken()).isEqualTo(1);
    assertThat(f.core.stats().dropped())
        .containsEntry(DropReason.COPY_LOST, 1L)
        .containsEntry(DropReason.PARENT_LOST, 4L);
    assertThat(f.effects.done).contains(new Done(first, 1, JobStatus.FAILED));
  }

  @Test
  void savePartDone_parentArrivesLast_publishesAllThatWaited() {
    f.extend(1, 1, 6);
    long first = f.planSave(1, 0, 2);
    long second = f.planSave(1, 2, 4);
    for (int part = 0; part < 2; part++) {
      f.core.go(first, part);
      f.core.go(second, part);
      f.core.savePartDone(second, part, ok(4));
    }
    assertThat(f.servable(1, 6)).isZero();
    f.core.savePartDone(first, 0, ok(2));
    f.core.savePartDone(first, 1, ok(2));
    assertThat(f.servable(1, 6)).isEqualTo(6);
    assertThat(f.effects.stored.stream().map(Stored::hash))
        .containsExactly(hash(1, 0), hash(1, 1), hash(1, 2), hash(1, 3), hash(1, 4), hash(1, 5));
  }

  @Test
  void savePartDone_blockLostWhileAnotherPartCopies_keepsTheSlotUntilThatEnds() {
    f.extend(1, 1, 2);
    long job = f.planSave(1, 0, 2);
    f.core.go(job, 0);
    f.core.go(job, 1);
    long[] slots = f.effects.lastStart().slots;
    f.core.savePartDone(job, 0, okBut(2, 0));
    assertThat(f.core.stats().quarantinedSlots()).isEqualTo(2);
    assertThat(f.slots.isTaken(slots[0])).isTrue();
    f.core.savePartDone(job, 1, ok(2));
    assertThat(f.core.stats().quarantinedSlots()).isZero();
    assertThat(f.slots.taken()).isZero();
    assertThat(f.effects.done)
        .containsExactly(new Done(job, 0, JobStatus.FAILED), new Done(job, 1, JobStatus.FAILED));
  }

  @Test
  void go_afterABlockWasLost_copiesOnlyWhatIsLeft() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.go(job, 0);
    f.core.savePartDone(job, 0, okBut(4, 2));
    f.core.go(job, 1);
    assertThat(f.effects.lastStart().gpuBlocks).containsExactly(100, 101);
    assertThat(f.effects.lastStart().generations).containsExactly(1, 2);
    f.core.savePartDone(job, 1, ok(2));
    assertThat(f.servable(1, 4)).isEqualTo(2);
    assertThat(f.effects.saves).containsExactly(new SaveDone(job, 2, 0, 2));
  }

  @Test
  void planSave_blocksThatAreThereOrComing_areSkipped() {
    f.cached(1, 2);
    f.effects.saves.clear();
    f.extend(1, 1, 6);
    long first = f.planSave(1, 0, 4);
    long second = f.planSave(1, 0, 6);
    f.core.go(second, 0);
    assertThat(f.effects.lastStart().gpuBlocks).containsExactly(104, 105);
    f.core.go(first, 0);
    assertThat(f.effects.lastStart().gpuBlocks).containsExactly(102, 103);
    long third = f.planSave(1, 0, 6);
    f.core.go(third, 1);
    assertThat(f.effects.saves).containsExactly(new SaveDone(third, 0, 6, 0));
    assertThat(f.effects.done).endsWith(new Done(third, 1, JobStatus.OK));
  }

  @Test
  void planSave_twoInstancesSameKeyOneDiesHalfWay_isSimplyNotCached() {
    f.core.openInstance(2, f.namespace);
    f.core.extendChain(2, 5, 0, CoreFixture.hashes(1, 0, 4), CoreFixture.HASH_BYTES, 4);
    f.core.planSave(2, 500, 5, 0, 0, CoreFixture.gpu(0, 4), CoreFixture.gens(4));
    f.core.go(500, 0);
    f.core.go(500, 1);
    f.core.savePartDone(500, 0, ok(4));
    f.extend(1, 1, 6);
    long mine = f.planSave(1, 0, 6);
    f.core.go(mine, 0);
    f.core.closeInstance(2);
    assertThat(f.core.stats().pendingBlocks()).isZero();
    assertThat(f.core.stats().quarantinedSlots()).as("4 of the dead, 2 of mine").isEqualTo(6);
    f.core.savePartDone(mine, 0, ok(2));
    f.core.savePartDone(500, 1, ok(4));
    assertThat(f.slots.taken()).isZero();
    assertThat(f.effects.done)
        .contains(new Done(mine, 0, JobStatus.FAILED), new Done(500, 1, JobStatus.VOID));
    assertThat(f.core.stats().saveJobs()).isZero();
    long again = f.planSave(1, 0, 6);
    f.core.go(again, 0);
    f.core.go(again, 1);
    f.core.savePartDone(again, 0, ok(6));
    f.core.savePartDone(again, 1, ok(6));
    assertThat(f.servable(1, 6)).isEqualTo(6);
  }

  @Test
  void planSave_parentMissing_savesNothing() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 2, 2);
    assertThat(f.effects.saves).containsExactly(new SaveDone(job, 0, 0, 2));
    assertThat(f.effects.done).as("no go, no answer").isEmpty();
    f.core.go(job, 1);
    assertThat(f.effects.done).containsExactly(new Done(job, 1, JobStatus.FAILED));
    assertThat(f.core.stats().dropped()).containsEntry(DropReason.PARENT_MISSING, 2L);
    assertThat(f.slots.taken()).isZero();
  }

  @Test
  void planSave_sameHashUnderAnotherPrefix_isRefused() {
    f.cached(1, 3);
    byte[] forged = CoreFixture.hashes(1, 0, 3);
    System.arraycopy(CoreFixture.hashes(2, 1, 1), 0, forged, CoreFixture.HASH_BYTES, 32);
    f.core.extendChain(ENGINE, 9, 0, forged, CoreFixture.HASH_BYTES, 3);
    f.planSave(9, 0, 3);
    assertThat(f.core.stats().readyBlocks() + f.core.stats().pendingBlocks())
        .as("block 1 of chain 2 found its parent, block 2 has another one")
        .isEqualTo(4);
    TreeChecker.check(f.core);
  }

  @Test
  void planSave_sameHashTwiceInAChain_takesThePrefix() {
    byte[] forged = CoreFixture.hashes(1, 0, 4);
    System.arraycopy(forged, 32, forged, 64, 32);
    f.core.extendChain(ENGINE, 9, 0, forged, CoreFixture.HASH_BYTES, 4);
    f.planSave(9, 0, 4);
    assertThat(f.core.stats().pendingBlocks()).isEqualTo(2);
    TreeChecker.check(f.core);
  }

  @Test
  void planSave_sizesThatMakeNoSense_areRefused() {
    f.extend(1, 1, 4);
    f.core.planSave(ENGINE, 90, 1, 0, 0, new int[3], new long[2]);
    f.core.planSave(ENGINE, 91, 1, 0, -1, new int[3], new long[3]);
    f.core.planSave(ENGINE, 92, 1, 0, 2, new int[3], new long[3]);
    f.core.planSave(ENGINE, 93, 7, 0, 0, new int[3], new long[3]);
    f.core.planSave(ENGINE, 94, 1, 99, 0, new int[3], new long[3]);
    f.core.planSave(ENGINE, 95, 1, 0, 0, new int[0], new long[0]);
    assertThat(f.slots.taken()).isZero();
    assertThat(f.effects.saves).hasSize(6).allMatch(save -> save.committed() == 0);
    assertThat(f.core.stats().saveJobs()).isZero();
  }

  @Test
  void tick_planWithoutItsGo_freesSlotsAndAnswersALateGo() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.go(job, 0);
    f.now += 60 * SECOND;
    f.core.tick();
    assertThat(f.core.stats().quarantinedSlots()).as("part 0 still copies").isEqualTo(4);
    f.core.savePartDone(job, 0, ok(4));
    assertThat(f.slots.taken()).isZero();
    assertThat(f.core.stats().saveJobs()).isZero();
    f.core.go(job, 1);
    assertThat(f.effects.done)
        .containsExactly(new Done(job, 0, JobStatus.FAILED), new Done(job, 1, JobStatus.FAILED));
    assertThat(f.core.stats().dropped()).containsEntry(DropReason.NO_GO, 1L);
  }

  @Test
  void abandonPart_waitingPart_dropsTheBlocksAtOnce() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.abandonPart(ENGINE, 1);
    assertThat(f.slots.taken()).isZero();
    assertThat(f.core.stats().saveJobs()).isZero();
    f.core.go(job, 0);
    assertThat(f.effects.done).containsExactly(new Done(job, 0, JobStatus.FAILED));
    assertThat(f.effects.starts).isEmpty();
  }

  @Test
  void savePartDone_twiceOrForAnUnknownJob_isIgnored() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.go(job, 0);
    f.core.savePartDone(job, 0, ok(4));
    f.core.savePartDone(job, 0, ok(4));
    f.core.savePartDone(job, 1, ok(4));
    f.core.savePartDone(job, 7, ok(4));
    f.core.savePartDone(job, -1, ok(4));
    f.core.savePartDone(999, 0, ok(4));
    f.core.loadPartDone(job, 0, true);
    assertThat(f.servable(1, 4)).isZero();
    assertThat(f.core.stats().ignoredCalls()).isEqualTo(6);
  }

  @Test
  void savePartDone_reportTooShort_countsTheRestAsLost() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.go(job, 0);
    f.core.go(job, 1);
    f.core.savePartDone(job, 0, ok(4));
    f.core.savePartDone(job, 1, ok(2));
    assertThat(f.servable(1, 4)).isEqualTo(2);
  }
}
