package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

/**
 * Seeded random calls, each answered by {@link CacheCore} and by {@link NaiveCache}: answers,
 * notices (evictions in their order), states, pins and slots must be the same after every one.
 * {@code -Dflexkv.sim.steps} makes it longer, {@code -Dflexkv.sim.seed} repeats one run.
 */
class ModelTest {
  private static final long SECOND = 1_000_000_000L;
  private static final int HASH_BYTES = 32;
  private static final int STEPS = Integer.getInteger("flexkv.sim.steps", 2_000);
  private static final int RUNS = 12;

  private static final CacheConfig CONFIG =
      new CacheConfig(
          8, 8, 2, 4, 24, 6, 330, 14, 5, 1_000_000, 3, 30 * SECOND, 60 * SECOND, 50 * SECOND);

  @Test
  void everyCall_comparedWithTheNaiveReference_agrees() {
    Long only = Long.getLong("flexkv.sim.seed");
    Map<String, Integer> counts = new HashMap<>();
    for (int run = 0; run < (only == null ? RUNS : 1); run++) {
      long seed = only == null ? 1_000 + run : only;
      try {
        new Run(seed, counts).go();
      } catch (AssertionError | RuntimeException e) {
        throw new AssertionError("run with -Dflexkv.sim.seed=" + seed + ": " + e.getMessage(), e);
      }
    }
    System.out.printf("model test: %d runs of %d calls: %s%n", RUNS, STEPS, counts);
    assertThat(counts)
        .as("the run must have met each of these")
        .containsKeys(
            "hit", "part ok", "part failed", "evicted", "quarantined", "parked", "partial");
  }

  private static final class Run {
    final Random random;
    final Map<String, Integer> counts;
    final RecordedEffects effects = new RecordedEffects();
    final FakeSlots slots;
    final CacheCore core;
    final NaiveCache model;
    long now = SECOND;
    long nextJob = 1;
    String step = "";

    Run(long seed, Map<String, Integer> counts) {
      this.random = new Random(seed);
      this.counts = counts;
      long capacity = 60L + random.nextInt(200);
      slots = new FakeSlots(capacity);
      core = new CacheCore(CONFIG, slots, effects, () -> now, seed);
      model = new NaiveCache(CONFIG, capacity);
      open(2, 5);
      open(1, 10);
      open(3, 7);
      for (int instance = 0; instance < 4; instance++) {
        openInstance(instance);
      }
    }

    void open(int parts, long bytes) {
      int handle = core.openNamespace(parts, bytes, parts, CoreFixture.sizes(parts, bytes));
      model.open(new NaiveState.Space(handle, parts * bytes, parts));
    }

    void openInstance(int instance) {
      core.openInstance(instance, instance % 3);
      model.openInstance(instance, instance % 3);
    }

    void go() {
      for (int i = 0; i < STEPS; i++) {
        model.now = now;
        forget();
        try {
          oneCall();
          compare();
        } catch (AssertionError | RuntimeException e) {
          throw new AssertionError("step " + i + ", " + step + ": " + e.getMessage(), e);
        }
      }
    }

    private void forget() {
      model.expected.clear();
      model.evicted.clear();
      model.published.clear();
      effects.starts.clear();
      effects.done.clear();
      effects.saves.clear();
      effects.stored.clear();
      effects.evicted.clear();
      effects.cleared.clear();
    }

    private void oneCall() {
      int instance = random.nextInt(4);
      long request = random.nextInt(7);
      int group = random.nextInt(9) == 0 ? 1 : 0;
      switch (random.nextInt(40)) {
        case 0, 1, 2, 3, 4 -> extend(instance, request);
        case 5, 6, 7, 8, 9, 10 -> lookup(instance, request, group);
        case 11, 12, 13 -> {
          List<NaiveState.LeaseKey> leases = List.copyOf(model.leases.keySet());
          if (leases.isEmpty() || random.nextInt(3) == 0) {
            planLoad(instance, request, group);
          } else {
            NaiveState.LeaseKey lease = leases.get(random.nextInt(leases.size()));
            planLoad(lease.instance(), lease.request(), lease.group());
          }
        }
        case 14, 15, 16, 17, 18, 19, 20, 21 -> planSave(instance, request, group);
        case 22, 23, 24, 25, 26, 27 -> goJob();
        case 28, 29, 30, 31, 32, 33 -> partDone();
        case 34 -> end(instance, request);
        case 35, 36 -> tick();
        case 37 -> {
          if (random.nextBoolean()) {
            abandon(instance);
          } else {
            revoke();
          }
        }
        case 38 -> reset();
        default -> close(instance);
      }
    }

    /** Chains form families that branch at fixed depths, so that requests share prefixes. */
    private List<Long> chain(long request) {
      long family = request % 2;
      int variant = (int) (request / 2);
      List<Long> hashes = new ArrayList<>();
      for (int i = 0; i < 24; i++) {
        hashes.add(1 + family * 1_000_000 + (i < 3 * variant ? 0 : variant) * 1_000L + i);
      }
      return hashes;
    }

    private void extend(int instance, long request) {
      NaiveState.Chain known = model.chains.getOrDefault(instance, Map.of()).get(request);
      int length = known == null ? 0 : known.hashes.size();
      int first = random.nextInt(40) == 0 ? random.nextInt(25) : random.nextInt(length + 1);
      int count = random.nextInt(60) == 0 ? 30 : random.nextInt(12);
      List<Long> hashes = new ArrayList<>();
      for (int i = first; i < first + count; i++) {
        hashes.add(i < 24 ? chain(request).get(i) : 77L);
      }
      int overlap = Math.min(count, length - first);
      if (overlap > 0 && random.nextInt(40) == 0) {
        hashes.set(random.nextInt(overlap), 5L);
      }
      step = "extend %d %d %d %s".formatted(instance, request, first, hashes);
      ByteBuffer bytes = ByteBuffer.allocate(count * HASH_BYTES);
      hashes.forEach(hash -> bytes.putLong(9).putLong(9).putLong(~hash).putLong(hash));
      boolean answer = core.extendChain(instance, request, first, bytes.array(), HASH_BYTES, count);
      assertThat(answer).isEqualTo(model.extend(instance, request, first, hashes));
    }

    private void lookup(int instance, long request, int group) {
      int first = random.nextInt(3) == 0 ? random.nextInt(10) : 0;
      int max = random.nextInt(4) == 0 ? random.nextInt(10) : Integer.MAX_VALUE / 2;
      step = "lookup %d %d %d %d %d".formatted(instance, request, group, first, max);
      LookupResult is = core.lookup(instance, request, group, first, max);
      NaiveState.Answer answer = model.lookup(instance, request, group, first, max);
      assertThat(is.chainBlocks()).isEqualTo(answer.chain());
      assertThat(is.servableBlocks()).isEqualTo(answer.servable());
      assertThat(is.residentBlocks()).isEqualTo(answer.resident());
      assertThat(is.leaseId() > 0).isEqualTo(answer.leased());
      if (answer.leased()) {
        counts.merge("hit", 1, Integer::sum);
        int again =
            (int) (core.lookup(instance, request, group, first, max).leaseId() - is.leaseId());
        model.lookup(instance, request, group, first, max);
        assertThat(again).as("the lease of the same request").isZero();
      }
    }

    private long job() {
      return random.nextInt(15) == 0 ? 1 + random.nextInt((int) nextJob) : nextJob++;
    }

    private void planLoad(int instance, long request, int group) {
      NaiveState.Lease lease = model.leases.get(new NaiveState.LeaseKey(instance, request, group));
      int depth = lease == null ? 1 + random.nextInt(12) : lease.depth;
      int first = random.nextInt(depth);
      int count = random.nextInt(3) == 0 ? 1 + random.nextInt(depth - first) : depth - first;
      int parts = 1 + random.nextInt(3);
      long job = job();
      int[] gpu = gpu(count);
      step =
          "load %d by %d/%d group %d [%d+%d)"
              .formatted(job, instance, request, group, first, count);
      boolean open = core.planLoad(instance, job, request, group, first, gpu, parts);
      assertThat(open).isEqualTo(model.planLoad(instance, job, request, group, first, gpu, parts));
      counts.merge(open ? "load" : "load refused", 1, Integer::sum);
    }

    private void planSave(int instance, long request, int group) {
      NaiveState.Chain known = model.chains.getOrDefault(instance, Map.of()).get(request);
      int length = known == null ? 4 : known.hashes.size();
      int first = random.nextInt(2) == 0 ? 0 : random.nextInt(length + 1);
      int count = random.nextInt(20) == 0 ? length + 1 : Math.max(1, length - first);
      long job = job();
      int[] gpu = gpu(count);
      step =
          "save %d by %d/%d group %d [%d+%d)"
              .formatted(job, instance, request, group, first, count);
      core.planSave(instance, job, request, group, first, gpu, new long[count]);
      model.planSave(instance, job, request, group, first, gpu);
      NaiveState.Work work = model.jobs.get(job);
      if (work != null && work.unplaced > 0) {
        counts.merge("partial", 1, Integer::sum);
      }
    }

    private static final AtomicInteger BLOCKS = new AtomicInteger();

    private static int[] gpu(int count) {
      return IntStream.range(0, count).map(i -> BLOCKS.incrementAndGet()).toArray();
    }

    private void goJob() {
      List<Long> open = List.copyOf(model.jobs.keySet());
      long job =
          open.isEmpty() || random.nextInt(8) == 0
              ? nextJob + random.nextInt(3) - 1
              : open.get(random.nextInt(open.size()));
      int part = random.nextInt(3);
      step = "go " + job + " " + part;
      core.go(job, part);
      model.go(job, part);
      if (model.parkedCount() > 0) {
        counts.merge("parked", 1, Integer::sum);
      }
    }

    private void revoke() {
      List<Long> open = List.copyOf(model.jobs.keySet());
      long job =
          open.isEmpty() || random.nextInt(3) == 0
              ? 1 + random.nextInt((int) nextJob)
              : open.get(random.nextInt(open.size()));
      int part = random.nextInt(3);
      step = "revoke " + job + " " + part;
      assertThat(core.revokeLoad(job, part)).isEqualTo(model.revoke(job, part));
    }

    private void partDone() {
      List<Long> open = List.copyOf(model.jobs.keySet());
      long job =
          open.isEmpty() || random.nextInt(10) == 0
              ? 1 + random.nextInt((int) nextJob)
              : open.get(random.nextInt(open.size()));
      NaiveState.Work work = model.jobs.get(job);
      int running = work == null ? -1 : Arrays.asList(work.parts).indexOf("runs");
      int part = running >= 0 && random.nextInt(4) > 0 ? running : random.nextInt(3);
      boolean[] ok = new boolean[24];
      Arrays.fill(ok, true);
      if (random.nextInt(4) == 0) {
        ok[random.nextInt(6)] = false;
      }
      step = "part done %d %d %s".formatted(job, part, Arrays.toString(ok));
      if (work != null ? work.save : random.nextBoolean()) {
        core.savePartDone(job, part, ok);
        model.saveDone(job, part, ok);
      } else {
        core.loadPartDone(job, part, ok[0]);
        model.loadDone(job, part, ok[0]);
      }
    }

    private void end(int instance, long request) {
      step = "end " + instance + " " + request;
      core.endRequest(instance, request);
      model.end(instance, request);
    }

    private void tick() {
      now += random.nextInt(8) == 0 ? random.nextLong(40 * SECOND) : random.nextLong(SECOND);
      model.now = now;
      step = "tick " + now;
      core.tick();
      model.tick();
    }

    private void abandon(int instance) {
      int part = random.nextInt(3);
      step = "abandon " + instance + " " + part;
      core.abandonPart(instance, part);
      model.abandon(instance, part);
    }

    private void reset() {
      if (random.nextInt(10) > 0) {
        return;
      }
      int namespace = random.nextInt(3);
      step = "reset " + namespace;
      core.resetNamespace(namespace);
      model.reset(namespace);
    }

    private void close(int instance) {
      step = "close " + instance;
      if (random.nextInt(6) == 0) {
        core.closeInstance(instance);
        model.closeInstance(instance);
      }
      if (random.nextBoolean()) {
        openInstance(instance);
      }
    }

    private void compare() {
      compareNotices();
      CacheStats stats = core.stats();
      int ready = (int) model.blocks.values().stream().filter(b -> b.ready).count();
      assertThat(stats.readyBlocks()).as("servable").isEqualTo(ready);
      assertThat(stats.pendingBlocks()).as("pending").isEqualTo(model.blocks.size() - ready);
      assertThat(stats.quarantinedSlots()).as("quarantine").isEqualTo(model.quarantine().size());
      assertThat(stats.usedBytes()).as("used bytes").isEqualTo(model.usedBytes());
      assertThat(stats.leases()).as("leases").isEqualTo(model.leases.size());
      assertThat(stats.chains()).as("chains").isEqualTo(model.chainCount());
      assertThat(stats.chainBlocks()).as("chain blocks").isEqualTo(model.chainBlocks());
      assertThat(stats.loadJobs() + stats.saveJobs()).as("jobs").isEqualTo(model.jobs.size());
      assertThat(stats.parkedGos()).as("parked").isEqualTo(model.parkedCount());
      if (stats.quarantinedSlots() > 0) {
        counts.merge("quarantined", 1, Integer::sum);
      }
      TreeChecker.check(core);
      for (NaiveState.Block block : model.blocks.values()) {
        compare(block);
      }
    }

    private void compare(NaiveState.Block block) {
      long hash = block.key.hash();
      int entry = TreeChecker.find(core, block.key.namespace(), block.key.group(), ~hash, hash);
      assertThat(entry).as("entry of %s", block.key).isNotEqualTo(BlockIndex.NONE);
      int state = block.ready ? EntryLayout.READY : EntryLayout.PENDING;
      assertThat(core.index().getInt(entry, EntryLayout.STATE))
          .as("state of %s", block.key)
          .isEqualTo(!block.ready && block.whole ? EntryLayout.COMPLETE : state);
      assertThat(core.index().getInt(entry, EntryLayout.PINS))
          .as("pins of %s", block.key)
          .isEqualTo(model.pins(block));
      assertThat(core.index().getInt(entry, EntryLayout.CHILDREN) > 0)
          .as("children of %s", block.key)
          .isEqualTo(model.hasChildren(block));
    }

    private void compareNotices() {
      List<String> is = new ArrayList<>();
      for (RecordedEffects.Start start : effects.starts) {
        is.add(
            "start %s %d %d %s"
                .formatted(
                    start.save ? "save" : "load",
                    start.jobId,
                    start.part,
                    Arrays.toString(start.gpuBlocks)));
        checkSlots(start);
      }
      effects.done.forEach(
          done -> is.add("done %d %d %s".formatted(done.jobId(), done.part(), done.status())));
      effects.saves.forEach(save ->
          is.add(
              "saved %d %d %d %d"
                  .formatted(save.jobId(), save.committed(), save.skipped(), save.dropped())));
      effects.cleared.forEach(
          generation -> is.add("cleared " + step.substring(6) + " " + generation));
      assertThat(is).containsExactlyInAnyOrderElementsOf(model.expected);
      assertThat(
              effects.evicted.stream()
                  .map(e -> "evicted %d %d %d".formatted(e.namespace(), e.group(), e.hash())))
          .as("evictions in order")
          .containsExactlyElementsOf(model.evicted);
      compareStored();
      count("part ok", is, "done .* OK");
      count("part failed", is, "done .* FAILED");
      counts.merge("evicted", model.evicted.size(), Integer::sum);
    }

    private void count(String what, List<String> notices, String pattern) {
      int n = (int) notices.stream().filter(notice -> notice.matches(pattern)).count();
      if (n > 0) {
        counts.merge(what, n, Integer::sum);
      }
    }

    private void compareStored() {
      assertThat(effects.stored).hasSameSizeAs(model.published);
      for (RecordedEffects.Stored stored : effects.stored) {
        NaiveState.Block block =
            model.blocks.get(new NaiveState.Key(stored.namespace(), stored.group(), stored.hash()));
        assertThat(model.published).contains(block);
        assertThat(stored.hasParent()).isEqualTo(block.parent != null);
        assertThat(stored.parentHash()).isEqualTo(block.parent == null ? 0 : block.parent);
        model.ordered(block);
      }
    }

    /** A block keeps its slot for life, and no two blocks share one. */
    private void checkSlots(RecordedEffects.Start start) {
      NaiveState.Work work = model.jobs.get(start.jobId);
      List<Integer> sent = work.sent.get(start.part);
      assertThat(start.slots).hasSameSizeAs(sent);
      for (int i = 0; i < start.slots.length; i++) {
        NaiveState.Block block = work.blocks.get(sent.get(i));
        if (block.slot < 0) {
          block.slot = start.slots[i];
        }
        assertThat(start.slots[i]).as("slot of %s", block.key).isEqualTo(block.slot);
      }
      Set<Long> distinct = new HashSet<>();
      for (NaiveState.Block block : model.blocks.values()) {
        if (block.slot >= 0) {
          assertThat(distinct.add(block.slot)).as("slot %s has one block", block.slot).isTrue();
        }
      }
      for (NaiveState.Block block : model.quarantine()) {
        assertThat(distinct).as("slot in quarantine").doesNotContain(block.slot);
      }
    }
  }
}
