package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.SECOND;
import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.RecordedEffects.Done;
import org.junit.jupiter.api.Test;

class GoTest {
  private final CoreFixture f = new CoreFixture(8, 2, CacheConfig.defaults().withJobs(2, 3, 4, 10));

  @Test
  void go_beforeThePlan_startsWithIt() {
    f.extend(1, 1, 4);
    f.core.go(1, 1);
    f.core.go(1, 1);
    assertThat(f.core.stats().parkedGos()).isEqualTo(1);
    assertThat(f.planSave(1, 0, 4)).isEqualTo(1);
    assertThat(f.core.stats().parkedGos()).isZero();
    assertThat(f.effects.starts).hasSize(1);
    assertThat(f.effects.lastStart().part).isEqualTo(1);
    f.core.go(1, 1);
    assertThat(f.effects.starts).hasSize(1);
  }

  @Test
  void go_planNeverComes_isAnsweredVoid() {
    f.core.go(50, 0);
    f.now += 59 * SECOND;
    f.core.go(50, 1);
    f.core.tick();
    assertThat(f.effects.done).isEmpty();
    f.now += SECOND;
    f.core.tick();
    assertThat(f.effects.done)
        .containsExactly(new Done(50, 0, JobStatus.VOID), new Done(50, 1, JobStatus.VOID));
    assertThat(f.core.stats().parkedGos()).isZero();
  }

  @Test
  void go_tooManyParked_isAnsweredVoid() {
    f.core.go(50, 0);
    f.core.go(50, 1);
    f.core.go(51, 0);
    assertThat(f.effects.done).isEmpty();
    f.core.go(52, 0);
    assertThat(f.effects.done).containsExactly(new Done(52, 0, JobStatus.VOID));
    assertThat(f.core.stats().parkedGos()).isEqualTo(3);
  }

  @Test
  void go_senselessPart_isIgnored() {
    f.core.go(50, -1);
    f.core.go(50, 256);
    f.extend(1, 1, 4);
    f.planSave(1, 0, 4);
    f.core.go(1, 2);
    assertThat(f.effects.done).isEmpty();
    assertThat(f.effects.starts).isEmpty();
    assertThat(f.core.stats().ignoredCalls()).isEqualTo(3);
  }

  @Test
  void plan_tooManyJobsOpen_isRefused() {
    f.extend(1, 1, 6);
    f.planSave(1, 0, 2);
    f.planSave(1, 2, 2);
    long third = f.planSave(1, 4, 2);
    f.core.go(third, 0);
    assertThat(f.effects.done).containsExactly(new Done(third, 0, JobStatus.FAILED));
    assertThat(f.core.stats().dropped()).containsEntry(DropReason.REFUSED, 2L);
  }

  @Test
  void go_forAJobEndedLongAgo_isParkedAndThenVoid() {
    f.extend(1, 1, 4);
    for (int i = 0; i < 6; i++) {
      f.core.planSave(ENGINE, 70 + i, 1, 0, 2, CoreFixture.gpu(0, 2), CoreFixture.gens(2));
    }
    f.core.go(75, 0);
    assertThat(f.effects.done).as("remembered").hasSize(1);
    f.core.go(70, 0);
    assertThat(f.core.stats().parkedGos()).as("forgotten").isEqualTo(1);
  }
}
