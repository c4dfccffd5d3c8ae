package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.ok;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.cache.RecordedEffects.Done;
import org.junit.jupiter.api.Test;

class ResetTest {
  private final CoreFixture f = new CoreFixture(8, 1);

  @Test
  void resetNamespace_servableBlocks_areGoneAtOnce() {
    f.cached(1, 4);
    f.cached(2, 4);
    assertThat(f.core.resetNamespace(f.namespace)).isEqualTo(1);
    assertThat(f.servable(1, 4)).isZero();
    assertThat(f.slots.taken()).isZero();
    assertThat(f.core.generation(f.namespace)).isEqualTo(1);
    assertThat(f.effects.cleared).containsExactly(1);
    assertThat(f.effects.evicted).isEmpty();
    f.cached(1, 4);
    assertThat(f.servable(1, 4)).isEqualTo(4);
    assertThatThrownBy(() -> f.core.resetNamespace(9)).hasMessageContaining("namespace 9");
  }

  @Test
  void resetNamespace_loadRunning_keepsItsSlotsAndFailsIt() {
    f.cached(1, 4);
    f.extend(1, 1, 4);
    f.core.lookup(ENGINE, 1, 0, 0, 4);
    long job = f.planLoad(1, 0, 4);
    f.core.go(job, 0);
    f.effects.done.clear();
    f.core.resetNamespace(f.namespace);
    f.core.resetNamespace(f.namespace);
    assertThat(f.core.stats().quarantinedSlots()).isEqualTo(4);
    assertThat(f.slots.taken()).isEqualTo(4);
    f.core.loadPartDone(job, 0, true);
    assertThat(f.effects.done).containsExactly(new Done(job, 0, JobStatus.FAILED));
    assertThat(f.slots.taken()).isZero();
  }

  @Test
  void resetNamespace_twoLoadsOnOneSlot_freesItAfterTheLast() {
    f.cached(1, 4);
    f.extend(1, 1, 4);
    f.extend(2, 1, 4);
    long first = f.planLoad(1, 0, 4);
    long second = f.planLoad(2, 2, 2);
    f.core.go(first, 0);
    f.core.go(second, 0);
    f.core.resetNamespace(f.namespace);
    f.core.loadPartDone(first, 0, true);
    assertThat(f.slots.taken()).isEqualTo(2);
    f.core.loadPartDone(second, 0, true);
    assertThat(f.slots.taken()).isZero();
  }

  @Test
  void resetNamespace_saveRunning_isDroppedAtItsEnd() {
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.go(job, 0);
    f.core.resetNamespace(f.namespace);
    assertThat(f.core.stats().quarantinedSlots()).isEqualTo(4);
    f.core.savePartDone(job, 0, ok(4));
    assertThat(f.slots.taken()).isZero();
    assertThat(f.servable(1, 4)).isZero();
    assertThat(f.effects.done).containsExactly(new Done(job, 0, JobStatus.FAILED));
  }

  @Test
  void resetNamespace_planWithoutGo_isAnsweredFailedWhenItComes() {
    f.cached(1, 4);
    f.extend(1, 1, 4);
    long load = f.planLoad(1, 0, 4);
    f.core.resetNamespace(f.namespace);
    assertThat(f.slots.taken()).isZero();
    assertThat(f.core.stats().loadJobs()).isZero();
    f.effects.done.clear();
    f.effects.starts.clear();
    f.core.go(load, 0);
    assertThat(f.effects.starts).isEmpty();
    assertThat(f.effects.done).containsExactly(new Done(load, 0, JobStatus.FAILED));
  }

  @Test
  void planSave_requestFromBeforeTheReset_isRefusedUntilItLooksUpAgain() {
    f.extend(1, 1, 4);
    f.core.resetNamespace(f.namespace);
    f.planSave(1, 0, 4);
    assertThat(f.core.stats().dropped()).containsEntry(DropReason.STALE_GENERATION, 4L);
    f.core.lookup(ENGINE, 1, 0, 0, 4);
    f.planSave(1, 0, 4);
    assertThat(f.core.stats().pendingBlocks()).isEqualTo(4);
  }

  @Test
  void planLoad_lookedUpBeforeTheResetSavedAnewSince_isRefused() {
    f.cached(1, 4);
    f.extend(5, 1, 4);
    f.core.lookup(ENGINE, 5, 0, 0, 4);
    f.core.resetNamespace(f.namespace);
    f.cached(1, 4);
    assertThat(f.core.stats().leases()).isZero();
    assertThat(f.core.planLoad(ENGINE, 900, 5, 0, 0, CoreFixture.gpu(0, 4), 1)).isFalse();
  }

  @Test
  void resetNamespace_otherNamespace_isLeftAlone() {
    int other = f.core.openNamespace(9, 9, 1, new long[] {10});
    f.cached(1, 4);
    f.core.resetNamespace(other);
    assertThat(f.servable(1, 4)).isEqualTo(4);
  }
}
