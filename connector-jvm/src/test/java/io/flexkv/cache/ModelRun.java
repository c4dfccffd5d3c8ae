package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;

/** Random calls of engines, each made of a core and of its reference. */
final class ModelRun {
  private static final long SECOND = 1_000_000_000L;
  private static final int HASH_BYTES = 32;
  private static final int CHAIN_BLOCKS = 24;

  private static final CacheConfig CONFIG =
      new CacheConfig(
          8, 8, 2, 4, 24, 6, 330, 14, 5, 1_000_000, 3, 30 * SECOND, 60 * SECOND, 50 * SECOND);

  final Random random;
  final Map<String, Integer> counts;
  final RecordedEffects effects = new RecordedEffects();
  private final long seed;
  private final long capacity;
  private final long ssdCapacity;
  private final SsdConfig ssdConfig;
  private final ModelCheck check;
  final ModelDisk disk;
  FakeSlots slots;
  FakeSlots ssdSlots;
  CacheCore core;
  NaiveCache model;
  long now = SECOND;
  private long nextJob = 1;
  String step = "";

  /** What a sensible engine does next: calls at random alone hardly ever bring a chain far. */
  private final ArrayDeque<Runnable> sensible = new ArrayDeque<>();

  ModelRun(long seed, boolean withSsd, Map<String, Integer> counts) {
    this.random = new Random(seed);
    this.seed = seed;
    this.counts = counts;
    capacity = (withSsd ? 120L : 60L) + random.nextInt(200);
    ssdCapacity = withSsd ? 60L + random.nextInt(400) : 0;
    ssdConfig = withSsd ? anySsdConfig() : SsdConfig.forHost(1);
    disk = new ModelDisk(this);
    check = new ModelCheck(this);
    begin(new int[3]);
  }

  private SsdConfig anySsdConfig() {
    WritePolicy[] policies = WritePolicy.values();
    return new SsdConfig(
        policies[random.nextInt(policies.length)],
        40 + random.nextInt(200),
        20 + random.nextInt(100),
        40 + random.nextInt(100),
        10 + random.nextInt(60),
        1 + random.nextInt(6),
        0,
        5 * SECOND);
  }

  /** Both anew, with namespaces of these generations and nothing in them. */
  void begin(int[] generations) {
    slots = new FakeSlots(capacity);
    ssdSlots = new FakeSlots(ssdCapacity);
    SlotAllocator lower = ssdCapacity == 0 ? SlotAllocator.NONE : ssdSlots;
    core =
        new CacheCore(
            CONFIG, EvictionSettings.DEFAULT, slots, lower, ssdConfig, effects, () -> now, seed);
    model = new NaiveCache(CONFIG, ssdConfig, capacity, ssdCapacity);
    model.now = now;
    open(2, 5, generations[0]);
    open(1, 10, generations[1]);
    open(3, 7, generations[2]);
    for (int instance = 0; instance < 4; instance++) {
      openInstance(instance);
    }
  }

  private void open(int parts, long bytes, int generation) {
    int handle =
        core.openNamespace(parts, bytes, parts, CoreFixture.sizes(parts, bytes), generation);
    NaiveState.Space space = new NaiveState.Space(handle, parts * bytes, parts);
    space.generation = generation;
    model.open(space);
  }

  private void openInstance(int instance) {
    core.openInstance(instance, instance % 3);
    model.openInstance(instance, instance % 3);
  }

  void go(int steps) {
    for (int i = 0; i < steps; i++) {
      model.now = now;
      model.forgetNotices();
      effects.forget();
      try {
        if (ssdCapacity == 0 || random.nextInt(3) == 0) {
          oneCall();
        } else {
          sensibleCall();
        }
        check.all();
      } catch (AssertionError | RuntimeException e) {
        throw new AssertionError("step " + i + ", " + step + ": " + e.getMessage(), e);
      }
    }
  }

  private void sensibleCall() {
    if (sensible.isEmpty()) {
      int instance = random.nextInt(4);
      long request = random.nextInt(7);
      int blocks = 2 + random.nextInt(CHAIN_BLOCKS - 2);
      sensible.add(() -> extend(instance, request, 0, chain(request).subList(0, blocks)));
      if (random.nextInt(3) > 0) {
        save(instance, request, blocks);
      } else {
        load(instance, request, blocks);
      }
    }
    sensible.remove().run();
  }

  private void save(int instance, long request, int blocks) {
    long job = nextJob++;
    sensible.add(() -> planSave(job, instance, request, 0, 0, blocks));
    for (int part = 0; part < 1 + (instance + 1) % 3; part++) {
      int rank = part;
      sensible.add(() -> go(job, rank));
      sensible.add(() -> partDone(job, rank, CoreFixture.ok(CHAIN_BLOCKS)));
    }
    sensible.add(disk::write);
    sensible.add(disk::write);
  }

  private void load(int instance, long request, int blocks) {
    // What the engine has itself may be less when it asks again.
    int own = random.nextInt(3) == 0 ? random.nextInt(blocks) : 0;
    for (int i = 0; i < 4; i++) {
      int first = i < 3 ? own : 0;
      sensible.add(() -> lookup(instance, request, 0, first, blocks));
      sensible.add(i < 2 ? disk::turn : disk::read);
    }
    long job = nextJob++;
    sensible.add(() -> {
      NaiveState.Lease lease = model.leases.get(new NaiveState.LeaseKey(instance, request, 0));
      if (lease != null) {
        planLoad(job, instance, request, 0, 0, lease.depth, 1);
      }
    });
    sensible.add(() -> go(job, 0));
    sensible.add(disk::read);
    sensible.add(() -> partDone(job, 0, CoreFixture.ok(1)));
    sensible.add(() -> end(instance, request));
  }

  private void oneCall() {
    int instance = random.nextInt(4);
    long request = random.nextInt(7);
    int group = random.nextInt(9) == 0 ? 1 : 0;
    switch (random.nextInt(ssdCapacity == 0 ? 40 : 60)) {
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
      case 39 -> close(instance);
      default -> disk.act();
    }
  }

  /** Chains form families that branch at fixed depths, so that requests share prefixes. */
  private List<Long> chain(long request) {
    long family = request % 2;
    int variant = (int) (request / 2);
    List<Long> hashes = new ArrayList<>();
    for (int i = 0; i < CHAIN_BLOCKS; i++) {
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
    extend(instance, request, first, hashes);
  }

  private void extend(int instance, long request, int first, List<Long> hashes) {
    int count = hashes.size();
    step = "extend %d %d %d %s".formatted(instance, request, first, hashes);
    ByteBuffer bytes = ByteBuffer.allocate(count * HASH_BYTES);
    hashes.forEach(hash -> bytes.putLong(9).putLong(9).putLong(~hash).putLong(hash));
    boolean answer = core.extendChain(instance, request, first, bytes.array(), HASH_BYTES, count);
    assertThat(answer).isEqualTo(model.extend(instance, request, first, hashes));
  }

  private void lookup(int instance, long request, int group) {
    int first = random.nextInt(3) == 0 ? random.nextInt(10) : 0;
    int max = random.nextInt(4) == 0 ? random.nextInt(10) : Integer.MAX_VALUE / 2;
    lookup(instance, request, group, first, max);
  }

  private void lookup(int instance, long request, int group, int first, int max) {
    step = "lookup %d %d %d %d %d".formatted(instance, request, group, first, max);
    LookupResult is = core.lookup(instance, request, group, first, max);
    NaiveState.Answer answer = model.lookup(instance, request, group, first, max);
    compare(is, answer);
    if (answer.leased()) {
      counts.merge("hit", 1, Integer::sum);
      long lease = is.leaseId();
      LookupResult again = core.lookup(instance, request, group, first, max);
      compare(again, model.lookup(instance, request, group, first, max));
      assertThat(again.leaseId()).as("the lease of the same request").isEqualTo(lease);
    }
    if (answer.pending()) {
      counts.merge("ask again", 1, Integer::sum);
    }
  }

  private void compare(LookupResult is, NaiveState.Answer answer) {
    assertThat(is.chainBlocks()).isEqualTo(answer.chain());
    assertThat(is.servableBlocks()).isEqualTo(answer.servable());
    assertThat(is.residentBlocks()).isEqualTo(answer.resident());
    assertThat(is.leaseId() > 0).isEqualTo(answer.leased());
    assertThat(is.hostBlocks()).as("in the host tier").isEqualTo(answer.host());
    assertThat(is.ssdBlocks()).as("in some tier").isEqualTo(answer.ssd());
    assertThat(is.pending()).isEqualTo(answer.pending());
    if (answer.leased() && answer.servable() > answer.host()) {
      counts.merge("hit on SSD", 1, Integer::sum);
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
    planLoad(job(), instance, request, group, first, count, 1 + random.nextInt(3));
  }

  private void planLoad(
      long job, int instance, long request, int group, int first, int count, int parts) {
    int[] gpu = gpu(count);
    step =
        "load %d by %d/%d group %d [%d+%d)".formatted(job, instance, request, group, first, count);
    boolean open = core.planLoad(instance, job, request, group, first, gpu, parts);
    assertThat(open).isEqualTo(model.planLoad(instance, job, request, group, first, gpu, parts));
    counts.merge(open ? "load" : "load refused", 1, Integer::sum);
    NaiveState.Work load = model.jobs.get(job);
    if (open && load != null && !load.transfers.isEmpty()) {
      counts.merge("read for a load", 1, Integer::sum);
    }
  }

  private void planSave(int instance, long request, int group) {
    NaiveState.Chain known = model.chains.getOrDefault(instance, Map.of()).get(request);
    int length = known == null ? 4 : known.hashes.size();
    int first = random.nextInt(2) == 0 ? 0 : random.nextInt(length + 1);
    int count = random.nextInt(20) == 0 ? length + 1 : Math.max(1, length - first);
    planSave(job(), instance, request, group, first, count);
  }

  private void planSave(long job, int instance, long request, int group, int first, int count) {
    int[] gpu = gpu(count);
    step =
        "save %d by %d/%d group %d [%d+%d)".formatted(job, instance, request, group, first, count);
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
    go(job, random.nextInt(3));
  }

  private void go(long job, int part) {
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
    partDone(job, part, ok);
  }

  private void partDone(long job, int part, boolean[] ok) {
    NaiveState.Work work = model.jobs.get(job);
    step = "part done %d %d %s".formatted(job, part, Arrays.toString(ok));
    if (work != null ? work.save : random.nextBoolean()) {
      core.savePartDone(job, part, ok);
      model.saveDone(job, part, ok);
      if (work != null) {
        disk.saved(work);
      }
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
      // Of requests that share reads still being put together, the order in which they end counts.
      for (NaiveState.LeaseKey key : List.copyOf(model.leases.keySet())) {
        if (key.instance() == instance && model.leases.get(key).reading != null) {
          end(instance, key.request());
        }
      }
      step = "close " + instance;
      core.closeInstance(instance);
      model.closeInstance(instance);
    }
    if (random.nextBoolean()) {
      openInstance(instance);
    }
  }
}
