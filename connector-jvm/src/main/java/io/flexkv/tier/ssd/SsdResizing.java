package io.flexkv.tier.ssd;

import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Another cap for a store that serves: all its directories, or none. Those that are out take part
 * when they are attached again.
 *
 * <p>{@link #prepare} and {@link #over} are one thread's, {@link #resize} is the cache thread's, in
 * between.
 */
final class SsdResizing {
  private final long patienceMillis;

  /** Where each directory will end. */
  private volatile Map<SsdDirectory, Integer> ends = Map.of();

  /** Done when the disks have answered a change that was given up. */
  private CompletableFuture<Void> late = CompletableFuture.completedFuture(null);

  /**
   * For one store.
   *
   * @param patienceMillis how long disks may take to give room
   */
  SsdResizing(long patienceMillis) {
    this.patienceMillis = patienceMillis;
  }

  /** See {@link SsdStore#prepareResize}. */
  void prepare(List<SsdDirectory> directories, SsdOptions wanted) throws IOException {
    if (!late.isDone()) {
      throw new IOException(
          "the disks have not given the room of the last change yet: try again in a moment");
    }
    Map<SsdDirectory, Integer> planned = new LinkedHashMap<>();
    for (SsdDirectory directory : directories) {
      if (directory.state() == SsdStore.State.LOST) {
        continue;
      }
      if (directory.state() != SsdStore.State.SERVING || !directory.recovered()) {
        throw new IOException(
            "SSD directory %s does not serve yet, or stalls: try again later"
                .formatted(directory.path()));
      }
      planned.put(directory, directory.files().extentsOf(wanted.share()));
    }
    begin(planned);
    CompletableFuture<Void> grown = new CompletableFuture<>();
    Thread.ofPlatform().daemon().name("flexkv-ssd-resize").start(() -> grow(planned, grown));
    await(planned, grown);
    ends = planned;
  }

  private static void begin(Map<SsdDirectory, Integer> planned) throws IOException {
    for (SsdDirectory directory : planned.keySet()) {
      if (!directory.resizing().begin()) {
        planned.keySet().forEach(one -> one.resizing().over());
        throw new IOException(
            "files of the last change are being cut in %s: try again in a moment"
                .formatted(directory.path()));
      }
    }
  }

  private static void grow(Map<SsdDirectory, Integer> planned, CompletableFuture<Void> grown) {
    try {
      for (Map.Entry<SsdDirectory, Integer> plan : planned.entrySet()) {
        plan.getKey().resizing().reserve(plan.getValue());
      }
      for (Map.Entry<SsdDirectory, Integer> plan : planned.entrySet()) {
        int errno = plan.getKey().resizing().describe(plan.getValue()).get();
        if (errno != 0) {
          plan.getKey().writeFailed(errno);
          throw new IOException(
              "SSD directory %s cannot note its size".formatted(plan.getKey().path()));
        }
      }
      grown.complete(null);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      grown.completeExceptionally(e);
    } catch (IOException | ExecutionException | RuntimeException e) {
      grown.completeExceptionally(e);
    }
  }

  /** What has its room and is not wanted after all is given back as that of a smaller size is. */
  private void await(Map<SsdDirectory, Integer> planned, CompletableFuture<Void> grown)
      throws IOException {
    try {
      grown.get(patienceMillis, TimeUnit.MILLISECONDS);
    } catch (TimeoutException | InterruptedException e) {
      late = grown.whenComplete((nothing, failure) -> over(planned));
      if (e instanceof InterruptedException) {
        Thread.currentThread().interrupt();
      }
      throw new IOException(
          "the disks did not give room within %d ms: look at them, and try again"
              .formatted(patienceMillis),
          e);
    } catch (ExecutionException e) {
      over(planned);
      throw e.getCause() instanceof IOException refused
          ? refused
          : new IOException("an error of the program: " + e.getCause(), e);
    }
  }

  /** The sizes count. */
  void resize() {
    ends.forEach((directory, end) -> directory.resizing().resize(end));
  }

  /** See {@link SsdStore#resizeOver}. */
  void over() {
    over(ends);
    ends = Map.of();
  }

  private static void over(Map<SsdDirectory, Integer> planned) {
    planned.keySet().forEach(directory -> directory.resizing().over());
  }
}
