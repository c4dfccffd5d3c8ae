package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.ok;
import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class SaveTest {
  @Test
  void savePartDone_allPartsIn_isServable() {
    CoreFixture f = new CoreFixture(10, 2);
    f.extend(1, 1, 4);
    long job = f.planSave(1, 0, 4);
    f.core.go(job, 0);
    f.core.go(job, 1);
    assertThat(f.effects.starts).hasSize(2);
    f.core.savePartDone(job, 0, ok(4));
    assertThat(f.servable(1, 4)).isZero();
    assertThat(f.core.lookup(ENGINE, 1, 0, 0, 9).residentBlocks()).isEqualTo(4);
    f.core.savePartDone(job, 1, ok(4));
    assertThat(f.servable(1, 4)).isEqualTo(4);
    assertThat(f.effects.saves).containsExactly(new RecordedEffects.SaveDone(job, 4, 0, 0));
    assertThat(f.effects.done)
        .containsExactly(
            new RecordedEffects.Done(job, 0, JobStatus.OK),
            new RecordedEffects.Done(job, 1, JobStatus.OK));
  }
}
