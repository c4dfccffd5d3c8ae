package io.flexkv.cache;

import java.util.ArrayList;
import java.util.List;

/** Writes down what the core wants done. */
final class RecordedEffects implements CacheEffects {
  /** A copy that was started. */
  static final class Start {
    final boolean save;
    final long jobId;
    final int part;
    final int[] gpuBlocks;
    final long[] slots;
    final long[] generations;

    Start(boolean save, long jobId, int part, int[] gpuBlocks, long[] slots, long[] generations) {
      this.save = save;
      this.jobId = jobId;
      this.part = part;
      this.gpuBlocks = gpuBlocks;
      this.slots = slots;
      this.generations = generations;
    }
  }

  record Done(long jobId, int part, JobStatus status) {}

  record SaveDone(long jobId, int committed, int skipped, int dropped) {}

  record Stored(
      Tier tier, int namespace, int group, long hash, long parentHash, boolean hasParent) {}

  record Evicted(Tier tier, int namespace, int group, long hash) {}

  final List<Start> starts = new ArrayList<>();
  final List<Done> done = new ArrayList<>();
  final List<SaveDone> saves = new ArrayList<>();
  final List<Stored> stored = new ArrayList<>();
  final List<Evicted> evicted = new ArrayList<>();
  final List<Integer> cleared = new ArrayList<>();

  @Override
  public void startLoad(
      long jobId, int part, int[] gpuBlocks, long[] slots, AvailableBlocks available) {
    starts.add(new Start(false, jobId, part, gpuBlocks, slots, new long[0]));
    this.available.add(available);
  }

  @Override
  public void startSave(long jobId, int part, int[] gpuBlocks, long[] slots, long[] generations) {
    starts.add(new Start(true, jobId, part, gpuBlocks, slots, generations));
  }

  @Override
  public void jobDone(long jobId, int part, JobStatus status) {
    done.add(new Done(jobId, part, status));
  }

  @Override
  public void saveDone(long jobId, int committed, int skipped, int dropped) {
    saves.add(new SaveDone(jobId, committed, skipped, dropped));
  }

  @Override
  public void stored(
      Tier tier, int namespace, int group, long hash, long parentHash, boolean hasParent) {
    stored.add(new Stored(tier, namespace, group, hash, parentHash, hasParent));
  }

  @Override
  public void evicted(Tier tier, int namespace, int group, long hash) {
    evicted.add(new Evicted(tier, namespace, group, hash));
  }

  @Override
  public void cleared(int namespace, int generation) {
    cleared.add(generation);
  }

  final List<SsdTransfer> reads = new ArrayList<>();
  final List<SsdTransfer> writes = new ArrayList<>();
  final List<Long> cancelled = new ArrayList<>();
  final List<AvailableBlocks> available = new ArrayList<>();

  @Override
  public void startRead(SsdTransfer read, boolean live) {
    reads.add(read);
  }

  @Override
  public void startWrite(SsdTransfer write) {
    writes.add(write);
  }

  @Override
  public void cancelTransfer(long transferId) {
    cancelled.add(transferId);
  }

  void forget() {
    List.of(starts, done, saves, stored, evicted, cleared, reads, writes, cancelled, available)
        .forEach(List::clear);
  }

  Start lastStart() {
    return starts.getLast();
  }
}
