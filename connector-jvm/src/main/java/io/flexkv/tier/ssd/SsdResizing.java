package io.flexkv.tier.ssd;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Collection;
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
  private final SsdRoom room;

  /** Where each directory will end. */
  private volatile Map<SsdDirectory, Integer> ends = Map.of();

  /** Done when the disks have answered a change that was given up. */
  private CompletableFuture<Void> late = CompletableFuture.completedFuture(null);

  /**
   * For one store.
   *
   * @param patienceMillis how long disks may take to give room
   * @param room whether there is any
   */
  SsdResizing(long patienceMillis, SsdRoom room) {
    this.patienceMillis = patienceMillis;
    this.room = room;
  }

  /** See {@link SsdStore#prepareResize}. */
  void prepare(List<SsdDirectory> directories, SsdOptions wanted) throws IOException {
    if (!late.isDone()) {
      throw new IOException(
          "the disks have not given the room of the last change yet: try again in a moment");
    }
    List<SsdDirectory> serving = new ArrayList<>();
    for (SsdDirectory directory : directories) {
      if (directory.state() == SsdStore.State.LOST) {
        continue;
      }
      if (directory.state() != SsdStore.State.SERVING || !directory.recovered()) {
        throw new IOException(
            "SSD directory %s does not serve yet, or stalls: try again later"
                .formatted(directory.path()));
      }
      serving.add(directory);
    }
    begin(serving);
    CompletableFuture<Map<SsdDirectory, Integer>> grown = new CompletableFuture<>();
    Thread.ofPlatform()
        .daemon()
        .name("flexkv-ssd-resize")
        .start(() -> grow(serving, wanted, grown));
    ends = await(serving, grown);
  }

  private static void begin(List<SsdDirectory> serving) throws IOException {
    for (SsdDirectory directory : serving) {
      if (!directory.resizing().begin()) {
        serving.forEach(one -> one.resizing().over());
        throw new IOException(
            "files of the last change are being cut in %s: try again in a moment"
                .formatted(directory.path()));
      }
    }
  }

  /** Asks the disks, which may hang: on a thread of its own. */
  private void grow(
      List<SsdDirectory> serving,
      SsdOptions wanted,
      CompletableFuture<Map<SsdDirectory, Integer>> grown) {
    try {
      room.require(serving.stream().map(SsdDirectory::files).toList(), wanted);
      Map<SsdDirectory, Integer> planned = new LinkedHashMap<>();
      for (SsdDirectory directory : serving) {
        int end = directory.files().extentsOf(wanted.share());
        directory.resizing().reserve(end);
        planned.put(directory, end);
      }
      for (Map.Entry<SsdDirectory, Integer> plan : planned.entrySet()) {
        int errno = plan.getKey().resizing().describe(plan.getValue()).get();
        if (errno != 0) {
          plan.getKey().writeFailed(errno);
          throw new IOException(
              "SSD directory %s cannot note its size".formatted(plan.getKey().path()));
        }
      }
      grown.complete(planned);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      grown.completeExceptionally(e);
    } catch (IOException | ExecutionException | RuntimeException e) {
      grown.completeExceptionally(e);
    }
  }

  /** What has its room and is not wanted after all is given back as that of a smaller size is. */
  private Map<SsdDirectory, Integer> await(
      List<SsdDirectory> serving, CompletableFuture<Map<SsdDirectory, Integer>> grown)
      throws IOException {
    try {
      return grown.get(patienceMillis, TimeUnit.MILLISECONDS);
    } catch (TimeoutException | InterruptedException e) {
      late = grown.handle((planned, failure) -> null).thenRun(() -> over(serving));
      if (e instanceof InterruptedException) {
        Thread.currentThread().interrupt();
      }
      throw new IOException(
          "the disks did not give room within %d ms: look at them, and try again"
              .formatted(patienceMillis),
          e);
    } catch (ExecutionException e) {
      over(serving);
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
    over(ends.keySet());
    ends = Map.of();
  }

  private static void over(Collection<SsdDirectory> serving) {
    serving.forEach(directory -> directory.resizing().over());
  }
}
