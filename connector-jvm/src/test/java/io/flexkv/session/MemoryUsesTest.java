package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class MemoryUsesTest {
  private final MemoryUses uses = new MemoryUses();

  @Test
  void begin_onceTheMemoryIsToBeClosed_isRefused() {
    assertThat(uses.begin()).isTrue();
    assertThat(uses.over()).isFalse();
    uses.finish();
    assertThat(uses.over()).isTrue();
    assertThat(uses.begin()).isFalse();
    uses.end();
    assertThat(uses.awaitEnd()).isTrue();
  }

  @Test
  void awaitEnd_copiesOfOneUseAreNeverKnownToEnd_saysThatTheMemoryStays() {
    assertThat(uses.begin()).isTrue();
    assertThat(uses.begin()).isTrue();
    uses.finish();
    uses.end(() -> false);
    uses.end();
    assertThat(uses.awaitEnd()).isFalse();
  }

  @Test
  void awaitEnd_interrupted_stillWaitsForTheLastUse() throws Exception {
    uses.begin();
    uses.finish();
    Thread closer = Thread.ofPlatform().daemon().start(uses::awaitEnd);
    closer.interrupt();
    SidecarRig.await("it waits", () -> closer.getState() == Thread.State.WAITING);
    closer.interrupt();
    SidecarRig.await("it waits again", () -> !closer.isInterrupted());
    assertThat(closer.isAlive()).isTrue();
    uses.end();
    closer.join(10_000);
    assertThat(closer.isAlive()).isFalse();
  }

  @Test
  void end_withoutABegin_isRefused() {
    assertThatThrownBy(uses::end).isInstanceOf(IllegalStateException.class);
  }
}
