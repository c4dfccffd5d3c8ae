package io.flexkv.session;

import io.flexkv.tier.ssd.RecoverySink;
import io.flexkv.tier.ssd.SsdEvent;
import io.flexkv.tier.ssd.SsdJob;
import io.flexkv.tier.ssd.SsdStats;
import io.flexkv.tier.ssd.SsdStore;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.jspecify.annotations.Nullable;

/**
 * A store without a disk, for {@link SsdWarmup}: it reads nothing and says that all has come, in
 * two steps. One thread; its slots never run out.
 */
final class WarmupStore implements SsdStore {
  private final ArrayDeque<SsdEvent> news = new ArrayDeque<>();
  private long lastSlot;

  @Override
  public long allocate(long slotBytes) {
    return ++lastSlot;
  }

  @Override
  public void free(long slot) {}

  @Override
  public long capacityBytes() {
    return Long.MAX_VALUE;
  }

  @Override
  public long usedBytes() {
    return 0;
  }

  @Override
  public int directoryOf(long slot) {
    return 0;
  }

  @Override
  public boolean submit(SsdJob job) {
    news.add(new SsdEvent.Progress(job, 1));
    news.add(
        new SsdEvent.Ended(job, SsdEvent.Outcome.DONE, job.blocks(), true, SsdStore.FULL, null));
    return true;
  }

  @Override
  public boolean cancel(long jobId) {
    return false;
  }

  @Override
  public @Nullable SsdEvent poll() {
    return news.poll();
  }

  @Override
  public void forgotten(int directory) {}

  @Override
  public int generation(long digestHi, long digestLo) {
    return 0;
  }

  @Override
  public void resetNamespace(long digestHi, long digestLo, int generation) {}

  @Override
  public void recover(RecoverySink sink) {}

  @Override
  public CompletableFuture<Void> registerMemory(List<MemorySegment> segments) {
    return CompletableFuture.completedFuture(null);
  }

  @Override
  public List<DirectoryStatus> directories() {
    return List.of();
  }

  @Override
  public boolean reattach(Path directory) {
    return false;
  }

  @Override
  public SsdStats stats() {
    return new SsdStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  }

  @Override
  public void close() {}
}
