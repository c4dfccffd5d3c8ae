package io.flexkv.ffm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import org.junit.jupiter.api.Test;

final class EventFdTest {
  @Test
  void signal_wakesThePoller_andDrainResets() throws IOException {
    try (EventFd event = EventFd.create()) {
      PollSet set = new PollSet(1);
      int index = set.add(event.fd(), PollSet.IN);
      assertThat(set.poll(0)).isZero();
      assertThat(event.drain()).isFalse();
      event.signal();
      event.signal();
      assertThat(set.poll(5_000)).isEqualTo(1);
      assertThat(set.ready(index)).isEqualTo(PollSet.IN);
      assertThat(event.drain()).isTrue();
      assertThat(event.drain()).isFalse();
      assertThat(set.poll(0)).isZero();
    }
  }

  @Test
  void signal_fromAnotherThread_endsTheWait() throws Exception {
    try (EventFd event = EventFd.create()) {
      PollSet set = new PollSet(1);
      set.add(event.fd(), PollSet.IN);
      Thread signaller = Thread.ofPlatform().start(() -> signalUnchecked(event));
      assertThat(set.poll(10_000)).isEqualTo(1);
      signaller.join();
    }
  }

  private static void signalUnchecked(EventFd event) {
    try {
      event.signal();
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
  }

  @Test
  void signal_afterClose_doesNothing() throws IOException {
    EventFd event = EventFd.create();
    event.close();
    event.signal();
    assertThat(event.drain()).isFalse();
    assertThat(event.fd()).isEqualTo(-1);
  }

  @Test
  void pollSet_full_refusesWithItsCapacity() {
    PollSet set = new PollSet(1);
    set.add(0, PollSet.IN);
    assertThatThrownBy(() -> set.add(1, PollSet.IN))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("capacity=1");
    assertThatThrownBy(() -> set.ready(1)).isInstanceOf(IndexOutOfBoundsException.class);
  }
}
