package io.flexkv.ffm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

final class PidFdTest {
  @Test
  void open_ownProcess_isAlive() throws IOException {
    int self = (int) ProcessHandle.current().pid();
    try (PidFd process = PidFd.open(self, PidFd.startTimeTicks(self))) {
      assertThat(process.alive()).isTrue();
      assertThat(process.pid()).isEqualTo(self);
    }
  }

  @Test
  void open_otherStartTime_refusedAsRecycled() throws IOException {
    int self = (int) ProcessHandle.current().pid();
    long ticks = PidFd.startTimeTicks(self);
    assertThatThrownBy(() -> PidFd.open(self, ticks - 1))
        .isInstanceOf(ErrnoException.class)
        .hasMessageContaining("recycled")
        .hasMessageContaining(Long.toString(ticks));
  }

  @Test
  void signal_kill_endsExactlyThatProcess() throws Exception {
    Process child = new ProcessBuilder("sleep", "600").start();
    try (PidFd process = PidFd.open((int) child.pid(), PidFd.startTimeTicks((int) child.pid()))) {
      assertThat(process.alive()).isTrue();
      process.signal(9);
      PollSet set = new PollSet(1);
      set.add(process.fd(), PollSet.IN);
      assertThat(set.poll(10_000)).isEqualTo(1);
      assertThat(process.alive()).isFalse();
      assertThat(child.waitFor(10, TimeUnit.SECONDS)).isTrue();
      assertThatThrownBy(() -> process.signal(9))
          .isInstanceOfSatisfying(
              ErrnoException.class, e -> assertThat(e.errno()).isEqualTo(Errno.ESRCH));
    } finally {
      child.destroyForcibly().waitFor();
    }
  }

  @Test
  void startTimeTicks_noSuchProcess_saysSo() {
    assertThatThrownBy(() -> PidFd.startTimeTicks(0x3fff_ffff))
        .isInstanceOf(ErrnoException.class)
        .hasMessageContaining("ESRCH");
  }
}
