package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A disk that takes longer to give room than anybody waits. */
class SsdResizingTest {
  private static final long CAPACITY = 8 << 20;

  @TempDir Path folder;

  private volatile CountDownLatch answers = new CountDownLatch(0);

  private int permit(BlockOp op, int length) {
    try {
      assertThat(op.file() != 0 || answers.await(20, TimeUnit.SECONDS)).isTrue();
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
    return length;
  }

  private static final class Nobody implements SsdDirectory.Owner {
    @Override
    public void lost(SsdDirectory directory, String cause) {
      throw new AssertionError(cause);
    }

    @Override
    public void wakeUp() {
      // Nothing is to be done.
    }
  }

  @Test
  void prepare_disksAnswerLate_isRefusedUntilTheyHave_thenGrowsOnce() throws Exception {
    SsdOptions options = SsdRig.options(0, CAPACITY, folder);
    SsdTuning tuning = SsdRig.tuning().withFaults(this::permit);
    DirectoryFiles files =
        DirectoryFiles.open(folder, CAPACITY, 0, 256 << 10, new SplittableRandom(1));
    SsdDirectory directory =
        new SsdDirectory(0, files, options, tuning, new SsdCounters(), new Nobody());
    CountDownLatch begun = new CountDownLatch(1);
    directory.start(new long[] {files.meta().directoryId}, begun::countDown);
    assertThat(begun.await(20, TimeUnit.SECONDS)).isTrue();
    directory.mayClean();
    int before = directory.space().extents();
    SsdResizing resizing = new SsdResizing(50, new SsdRoom(Disk::of));
    answers = new CountDownLatch(1);

    assertThatThrownBy(() -> prepare(resizing, directory, 2 * CAPACITY))
        .hasMessageContaining("did not give room within 50 ms");
    assertThatThrownBy(() -> prepare(resizing, directory, 3 * CAPACITY))
        .hasMessageContaining("have not given the room of the last change yet");
    assertThat(directory.space().extents()).isEqualTo(before);

    answers.countDown();
    long deadline = System.nanoTime() + SsdRig.PATIENCE_NANOS;
    while (!prepared(resizing, directory)) {
      assertThat(System.nanoTime() - deadline).isNegative();
      Thread.sleep(5);
    }
    resizing.resize();
    resizing.over();
    assertThat(directory.space().extents()).isEqualTo(files.extentsOf(3 * CAPACITY));
    assertThat(files.meta().extents).isEqualTo(directory.space().extents());
    directory.close(SsdRig.PATIENCE_NANOS);
  }

  private void prepare(SsdResizing resizing, SsdDirectory directory, long bytes)
      throws IOException {
    resizing.prepare(List.of(directory), SsdRig.options(0, bytes, folder));
  }

  private boolean prepared(SsdResizing resizing, SsdDirectory directory) {
    try {
      prepare(resizing, directory, 3 * CAPACITY);
      return true;
    } catch (IOException e) {
      assertThat(e).hasMessageContaining("try again");
      return false;
    }
  }
}
