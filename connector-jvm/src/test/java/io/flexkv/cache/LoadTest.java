package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.SECOND;
import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.RecordedEffects.Done;
import org.junit.jupiter.api.Test;

class LoadTest {
  private final CoreFixture f = new CoreFixture(8, 2);

  private void hit(long request, int blocks) {
    f.cached(1, blocks);
    f.extend(request, 1, blocks);
    f.core.lookup(ENGINE, request, 0, 0, blocks);
    f.effects.done.clear();
    f.effects.starts.clear();
  }

  @Test
  void planLoad_leased_copiesTheSlotsOfTheseBlocks() {
    f.extend(1, 1, 6);
    long save = f.planSave(1, 0, 6);
    f.core.go(save, 0);
    long[] saved = f.effects.lastStart().slots;
    f.core.go(save, 1);
    f.core.savePartDone(save, 0, CoreFixture.ok(6));
    f.core.savePartDone(save, 1, CoreFixture.ok(6));
    f.core.lookup(ENGINE, 1, 0, 2, 9);
    f.effects.done.clear();
    long job = f.planLoad(1, 2, 3);
    assertThat(f.core.stats().leases()).as("the lease became the pin").isZero();
    f.core.go(job, 1);
    assertThat(f.effects.lastStart().save).isFalse();
    assertThat(f.effects.lastStart().slots).containsExactly(saved[2], saved[3], saved[4]);
    assertThat(f.effects.lastStart().gpuBlocks).containsExactly(102, 103, 104);
    f.core.loadPartDone(job, 1, true);
    assertThat(f.effects.done).containsExactly(new Done(job, 1, JobStatus.OK));
    assertThat(f.core.stats().loadJobs()).isEqualTo(1);
    f.core.go(job, 0);
    f.core.loadPartDone(job, 0, false);
    assertThat(f.effects.done).endsWith(new Done(job, 0, JobStatus.FAILED));
    assertThat(f.core.stats().loadJobs()).isZero();
  }

  @Test
  void planLoad_open_pinsAgainstEvictionUntilTheLastPart() {
    hit(1, 8);
    long job = f.planLoad(1, 0, 8);
    f.core.endRequest(ENGINE, 1);
    f.core.go(job, 0);
    f.core.go(job, 1);
    f.core.loadPartDone(job, 0, true);
    f.cached(2, 4);
    assertThat(f.servable(2, 4)).isZero();
    f.core.loadPartDone(job, 1, true);
    f.cached(2, 4);
    assertThat(f.servable(2, 4)).isEqualTo(4);
    assertThat(f.servable(1, 8)).isEqualTo(4);
  }

  @Test
  void planLoad_leaseExpiredBlocksStillThere_isTakenAgain() {
    hit(1, 4);
    f.now += 31 * SECOND;
    f.core.tick();
    assertThat(f.core.stats().leases()).isZero();
    long job = f.planLoad(1, 0, 4);
    f.core.go(job, 0);
    assertThat(f.effects.starts).hasSize(1);
  }

  @Test
  void planLoad_leaseExpiredBlocksEvicted_failsForEveryRank() {
    hit(1, 4);
    f.now += 31 * SECOND;
    f.core.tick();
    f.cached(2, 8);
    f.effects.done.clear();
    f.effects.starts.clear();
    f.core.go(900, 1);
    assertThat(f.core.planLoad(ENGINE, 900, 1, 0, 0, CoreFixture.gpu(0, 4), 2)).isFalse();
    assertThat(f.effects.done).containsExactly(new Done(900, 1, JobStatus.FAILED));
    f.core.go(900, 0);
    f.core.go(900, 0);
    assertThat(f.effects.done)
        .containsExactly(new Done(900, 1, JobStatus.FAILED), new Done(900, 0, JobStatus.FAILED));
    assertThat(f.effects.starts).isEmpty();
  }

  @Test
  void planLoad_pendingOrUnknownBlocks_isRefused() {
    hit(1, 4);
    f.extend(1, 1, 6);
    f.planSave(1, 4, 2);
    assertThat(f.core.planLoad(ENGINE, 900, 1, 0, 3, CoreFixture.gpu(0, 2), 2)).isFalse();
    assertThat(f.core.planLoad(ENGINE, 901, 1, 0, 4, CoreFixture.gpu(0, 9), 2)).isFalse();
    assertThat(f.core.planLoad(ENGINE, 902, 1, 0, -1, CoreFixture.gpu(0, 2), 2)).isFalse();
    assertThat(f.core.planLoad(ENGINE, 903, 1, 0, 0, new int[0], 2)).isFalse();
    assertThat(f.core.planLoad(ENGINE, 904, 7, 0, 0, CoreFixture.gpu(0, 2), 2)).isFalse();
    assertThat(f.core.planLoad(7, 905, 1, 0, 0, CoreFixture.gpu(0, 2), 2)).isFalse();
    assertThat(f.core.planLoad(ENGINE, 906, 1, 0, 0, CoreFixture.gpu(0, 2), 0)).isFalse();
    assertThat(f.core.planLoad(ENGINE, 907, 1, 0, 0, CoreFixture.gpu(0, 2), 999)).isFalse();
    assertThat(f.core.stats().loadJobs()).isZero();
    assertThat(f.core.stats().loadsRefused()).isEqualTo(8);
  }

  @Test
  void planLoad_chainWithAnotherPrefix_isRefused() {
    hit(1, 4);
    byte[] forged = CoreFixture.hashes(1, 0, 4);
    System.arraycopy(CoreFixture.hashes(2, 0, 1), 0, forged, CoreFixture.HASH_BYTES, 32);
    f.core.extendChain(ENGINE, 9, 0, forged, CoreFixture.HASH_BYTES, 4);
    assertThat(f.core.planLoad(ENGINE, 900, 9, 0, 0, CoreFixture.gpu(0, 4), 2)).isFalse();
    assertThat(f.core.planLoad(ENGINE, 901, 9, 0, 2, CoreFixture.gpu(0, 2), 2)).isTrue();
  }

  @Test
  void planLoad_moreRanksThanParts_waitsForEach() {
    CoreFixture mla = new CoreFixture(8, 1);
    mla.cached(1, 4);
    mla.extend(1, 1, 4);
    mla.core.planLoad(ENGINE, 900, 1, 0, 0, CoreFixture.gpu(0, 4), 3);
    for (int rank = 0; rank < 3; rank++) {
      mla.core.go(900, rank);
      assertThat(mla.core.stats().loadJobs()).isEqualTo(1);
      mla.core.loadPartDone(900, rank, true);
    }
    assertThat(mla.core.stats().loadJobs()).isZero();
  }

  @Test
  void planLoad_twice_isIgnored() {
    hit(1, 4);
    assertThat(f.core.planLoad(ENGINE, 900, 1, 0, 0, CoreFixture.gpu(0, 4), 1)).isTrue();
    assertThat(f.core.planLoad(ENGINE, 900, 1, 0, 0, CoreFixture.gpu(9, 4), 1)).isTrue();
    f.core.go(900, 0);
    f.core.go(900, 0);
    assertThat(f.effects.starts).hasSize(1);
    f.core.loadPartDone(900, 0, true);
    f.core.loadPartDone(900, 0, true);
    assertThat(f.core.planLoad(ENGINE, 900, 1, 0, 0, CoreFixture.gpu(0, 4), 1)).isFalse();
    assertThat(f.effects.done).hasSize(1);
  }

  @Test
  void closeInstance_openLoad_keepsItsSlotsUntilDrained() {
    hit(1, 8);
    long job = f.planLoad(1, 0, 8);
    f.core.go(job, 0);
    f.core.closeInstance(ENGINE);
    assertThat(f.effects.done).isEmpty();
    f.core.openInstance(ENGINE, f.namespace);
    f.cached(2, 4);
    assertThat(f.servable(2, 4)).as("the pool is full of pinned blocks").isZero();
    f.effects.done.clear();
    f.core.loadPartDone(job, 0, true);
    f.core.go(job, 1);
    assertThat(f.effects.done)
        .containsExactly(new Done(job, 0, JobStatus.VOID), new Done(job, 1, JobStatus.VOID));
    f.cached(2, 4);
    assertThat(f.servable(2, 4)).isEqualTo(4);
  }

  @Test
  void abandonPart_waitingPart_endsSoTheOtherDecides() {
    hit(1, 4);
    long job = f.planLoad(1, 0, 4);
    f.core.go(job, 0);
    f.core.abandonPart(ENGINE, 1);
    assertThat(f.core.stats().loadJobs()).isEqualTo(1);
    f.core.loadPartDone(job, 0, true);
    assertThat(f.effects.done).containsExactly(new Done(job, 0, JobStatus.OK));
    assertThat(f.core.stats().loadJobs()).isZero();
  }

  @Test
  void tick_loadWithoutItsGo_ends() {
    hit(1, 4);
    long job = f.planLoad(1, 0, 4);
    f.now += 60 * SECOND;
    f.core.tick();
    assertThat(f.core.stats().loadJobs()).isZero();
    f.core.go(job, 0);
    assertThat(f.effects.done).containsExactly(new Done(job, 0, JobStatus.FAILED));
  }

  @Test
  void revokeLoad_eachState_endsWhatDoesNotRun() {
    hit(1, 4);
    long job = f.planLoad(1, 0, 4);
    f.core.go(job, 0);
    assertThat(f.core.revokeLoad(job, 0)).as("runs: the mover ends it").isTrue();
    assertThat(f.core.revokeLoad(job, 1)).isFalse();
    assertThat(f.effects.done).containsExactly(new Done(job, 1, JobStatus.FAILED));
    f.core.go(job, 1);
    f.core.loadPartDone(job, 0, false);
    assertThat(f.core.revokeLoad(job, 0)).isFalse();
    assertThat(f.effects.done).hasSize(2);
    assertThat(f.effects.starts).hasSize(1);
    assertThat(f.core.stats().loadJobs()).isZero();
  }

  @Test
  void revokeLoad_beforeThePlan_answersAndThePlanCopiesNothing() {
    hit(1, 4);
    f.core.go(900, 0);
    assertThat(f.core.revokeLoad(900, 0)).isFalse();
    assertThat(f.effects.done).containsExactly(new Done(900, 0, JobStatus.VOID));
    assertThat(f.core.stats().parkedGos()).isZero();
    assertThat(f.core.planLoad(ENGINE, 900, 1, 0, 0, CoreFixture.gpu(0, 4), 2)).isTrue();
    assertThat(f.effects.starts).isEmpty();
  }
}
