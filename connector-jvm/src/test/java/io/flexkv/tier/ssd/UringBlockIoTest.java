package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.abort;

import io.flexkv.ffm.DirectFile;
import io.flexkv.ffm.Errno;
import io.flexkv.ffm.ErrnoException;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class UringBlockIoTest extends BlockIoContract {
  @Override
  BlockIo open(List<DirectFile> files, IoFaults faults) {
    try {
      return UringBlockIo.open("test-ssd-ring", files, 4, 0, faults);
    } catch (ErrnoException e) {
      return abort("no io_uring here: " + e.getMessage());
    }
  }

  @Override
  int placesTakenAtOnce() {
    return 3;
  }

  @Test
  void registeredMemory_toldTheSameAgain_isLeftAsItIs() throws Exception {
    UringBlockIo ring = (UringBlockIo) io;
    for (int round = 0; round < 3; round++) {
      ring.registerMemory(List.of(memory)).get(PATIENCE_S, TimeUnit.SECONDS);
    }
    assertThat(ring.registrations()).isEqualTo(1);
    ring.registerMemory(List.of(memory.asSlice(0, 4096))).get(PATIENCE_S, TimeUnit.SECONDS);
    assertThat(ring.registrations()).isEqualTo(2);
  }

  /** Whoever waits would wait for ever, since the thread that took the offer has ended. */
  @Test
  void registeredMemory_kernelDoesNotLetGo_isToldAndAccessesFail() throws Exception {
    UringBlockIo ring = (UringBlockIo) io;
    ring.registerMemory(List.of(memory)).get(PATIENCE_S, TimeUnit.SECONDS);
    ring.ring.unregisterBuffers(); // so that it is refused to the thread
    CompletableFuture<Void> done = ring.registerMemory(List.of(memory.asSlice(0, 4096)));
    assertThatThrownBy(() -> done.get(PATIENCE_S, TimeUnit.SECONDS))
        .isInstanceOf(ExecutionException.class)
        .hasCauseInstanceOf(ErrnoException.class);
    assertThat(submit(false, 0, 1).await()).isEqualTo(Errno.EIO);
  }
}
