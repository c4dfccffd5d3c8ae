package io.flexkv.cache;

import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.function.LongPredicate;

/**
 * A world of engines, ranks and movers around one core, all drawn from one seed. The core's process
 * may be killed at any step: another begins with what is on the disk.
 */
final class Simulation implements CacheEffects {
  private static final long SECOND = 1_000_000_000L;

  private static final CacheConfig CONFIG =
      CacheConfig.defaults()
          .withTimes(30 * SECOND, 60 * SECOND, 20 * SECOND)
          .withJobs(60, 6, 4096, 8);

  final Random random;
  final Map<String, Integer> counts;
  CacheCore core;
  final List<SimEngine> engines = new ArrayList<>();
  long nextJob = 1;
  long nextRequest = 1;
  long blocksChecked;
  private SimMover mover = new SimMover();
  private SimSlots slots;
  private final SimDisk disk;
  private final long ssdCapacity;
  private final long seed;
  private final long capacity;
  private final long extentBytes;
  private final SsdConfig ssd;

  /** What the disk holds from before the last crash and nobody has offered yet. */
  private final ArrayDeque<Map.Entry<Long, BlockIdentity>> survivors = new ArrayDeque<>();

  private final List<SimSpace> spaces = new ArrayList<>();
  private final List<Runnable> agenda = new ArrayList<>();
  private final Set<Long> answered = new HashSet<>();
  private final Set<Long> orphans = new HashSet<>();
  private long now = SECOND;

  Simulation(long seed, Map<String, Integer> counts) {
    this.random = new Random(seed);
    this.seed = seed;
    this.counts = counts;
    boolean extents = random.nextBoolean();
    extentBytes = extents ? 48 : 0;
    capacity = extents ? 48L * (3 + random.nextInt(4)) : 60L + random.nextInt(200);
    ssdCapacity = 40L + random.nextInt(400);
    disk = new SimDisk(ssdCapacity, counts);
    List<WritePolicy> policies = List.of(WritePolicy.values());
    WritePolicy policy = policies.get(random.nextInt(policies.size()));
    ssd =
        new SsdConfig(
            policy,
            20 + random.nextInt(100),
            10 + random.nextInt(60),
            20 + random.nextInt(80),
            6 + random.nextInt(40),
            1 + random.nextInt(5),
            random.nextInt(3) == 0 ? 1 + random.nextInt(1000) : 0,
            SECOND);
    int parts = 1 + random.nextInt(4);
    slots = newSlots();
    core = newCore();
    spaces.add(space(parts, parts, 4));
    spaces.add(space(2, 1, 6));
    newEngines();
  }

  private SimSlots newSlots() {
    return new SimSlots(
        new FakeSlots(capacity, extentBytes),
        slot -> mover.touches(slot) || disk.touches(slot, true));
  }

  private CacheCore newCore() {
    return new CacheCore(CONFIG, anyEviction(), slots, disk, ssd, this, () -> now, seed);
  }

  private void newEngines() {
    engines.clear();
    for (int id = 0; id < 4; id++) {
      engines.add(new SimEngine(this, id, spaces.get(id == 3 ? 1 : 0)));
    }
  }

  private EvictionSettings anyEviction() {
    EvictionSettings.Policy[] policies = EvictionSettings.Policy.values();
    return new EvictionSettings(
        policies[random.nextInt(policies.length)],
        random.nextBoolean() ? 0 : random.nextLong(SECOND),
        1 + random.nextInt(3),
        random.nextBoolean() ? 1 : random.nextDouble(),
        random.nextBoolean() ? 0 : random.nextDouble());
  }

  private SimSpace space(int ranks, int saveParts, long bytes) {
    SimSpace space = new SimSpace(spaces.size(), ranks, saveParts, bytes);
    open(space, 0);
    return space;
  }

  private void open(SimSpace space, int generation) {
    long[] sizes = CoreFixture.sizes(space.saveParts, space.partBytes);
    int handle =
        core.openNamespace(space.ranks, space.partBytes, space.saveParts, sizes, generation);
    if (handle != space.handle) {
      throw new AssertionError("namespace " + handle + ", it was " + space.handle);
    }
    core.setBlockTokens(handle, 16);
  }

  void run(int steps) {
    for (int step = 0; step < steps; step++) {
      try {
        step();
        if (step % 16 == 0) {
          TreeChecker.check(core);
        }
      } catch (AssertionError | RuntimeException e) {
        throw new AssertionError("step " + step + ": " + e.getMessage(), e);
      }
    }
    drain();
  }

  private void step() {
    if (random.nextInt(3) == 0) {
      core.turn();
    }
    int draw = random.nextInt(1000);
    if (draw < 180) {
      engines.get(random.nextInt(engines.size())).act();
    } else if (draw < 540) {
      mover.advance(random, slots);
    } else if (draw < 640) {
      disk.advance(random, slots);
    } else if (draw < 730) {
      mover.report(random, core);
    } else if (draw < 780) {
      disk.report(random, core.ssd());
    } else if (draw < 970) {
      if (!agenda.isEmpty()) {
        agenda.remove(random.nextInt(Math.min(agenda.size(), 4))).run();
      }
    } else if (draw < 988) {
      now += random.nextInt(10) == 0 ? random.nextLong(70 * SECOND) : random.nextLong(SECOND);
      core.tick();
      if (random.nextInt(8) == 0) {
        core.setEviction(anyEviction());
      }
      revokeSome();
      if (random.nextInt(6) == 0) {
        resize();
      }
    } else if (draw < 991) {
      rankDies(engines.get(random.nextInt(engines.size())));
    } else if (draw < 992) {
      engineDies(random.nextInt(engines.size()));
    } else if (draw < 993) {
      reset(spaces.get(random.nextInt(spaces.size())));
    } else if (draw < 994 && random.nextInt(4) == 0) {
      LongPredicate lost = slot -> slot % 3 == 0;
      disk.lose(lost, core.ssd());
      survivors.stream().map(Map.Entry::getKey).filter(lost::test).forEach(disk::free);
      survivors.removeIf(survivor -> lost.test(survivor.getKey()));
    } else if (draw < 995 && random.nextInt(4) == 0) {
      crash();
    } else if (draw >= 995) {
      offer(random.nextInt(6));
    }
  }

  // ------------------------------------------------------------------ kill and recovery

  /** The core's process is killed. Engines begin anew, too; what a reset was told is durable. */
  private void crash() {
    counts.merge("killed", 1, Integer::sum);
    int[] generations = spaces.stream().mapToInt(space -> core.generation(space.handle)).toArray();
    now += random.nextLong(10 * SECOND);
    agenda.clear();
    orphans.clear();
    survivors.clear();
    counts.merge("copied", (int) mover.blocksCopied, Integer::sum);
    mover = new SimMover();
    survivors.addAll(disk.crash(random));
    slots = newSlots();
    core = newCore();
    spaces.forEach(space -> open(space, generations[space.handle]));
    newEngines();
    if (random.nextBoolean()) {
      Set<List<Long>> wanted = durable(generations);
      offer(Integer.MAX_VALUE);
      wanted.forEach(this::checkRecovered);
      counts.merge("recovered at once", wanted.size(), Integer::sum);
    }
  }

  /** Blocks (namespace, hash) of the present generation of which the whole chain has survived. */
  private Set<List<Long>> durable(int[] generations) {
    Set<List<Long>> durable = new HashSet<>();
    for (Map.Entry<Long, BlockIdentity> survivor : survivors) {
      BlockIdentity block = survivor.getValue();
      SimSpace space = spaceOf(block);
      boolean current = block.generation() == generations[space.handle];
      List<Long> parent = List.of((long) space.handle, block.parentLo());
      if (current && (!block.hasParent() || durable.contains(parent))) {
        durable.add(List.of((long) space.handle, block.hashLo()));
      }
    }
    return durable;
  }

  private SimSpace spaceOf(BlockIdentity block) {
    return spaces.stream()
        .filter(s -> s.ranks == block.digestHi() && s.partBytes == block.digestLo())
        .findFirst()
        .orElseThrow();
  }

  /** Hands so many survivors to the core; what it does not want is free. */
  private void offer(int most) {
    for (int i = 0; i < most && !survivors.isEmpty(); i++) {
      Map.Entry<Long, BlockIdentity> survivor = survivors.remove();
      if (core.ssd().adopt(survivor.getValue(), survivor.getKey()) == SsdReports.Adoption.TAKEN) {
        counts.merge("adopted", 1, Integer::sum);
      } else {
        disk.free(survivor.getKey());
      }
    }
  }

  private void checkRecovered(List<Long> block) {
    long hash = block.getLast();
    int entry = TreeChecker.find(core, block.getFirst().intValue(), 0, ~hash, hash);
    if (entry == BlockIndex.NONE
        || core.index().getInt(entry, EntryLayout.SSD) != EntryLayout.SSD_HELD) {
      throw new AssertionError("block " + hash + " was durable and is not found again");
    }
  }

  /** Tiers become larger or smaller; what is in the way is to go when it may. */
  private void resize() {
    slots.resize(48L * (1 + random.nextInt(6)));
    core.hostResized();
    counts.merge(slots.shrinks() ? "slots to be given back" : "resized", 1, Integer::sum);
    if (survivors.isEmpty() && random.nextBoolean()) {
      disk.resize(ssdCapacity / 4 * (1 + random.nextInt(5)));
      core.ssdResized();
      counts.merge(disk.shrinks() ? "SSD slots to be given back" : "SSD resized", 1, Integer::sum);
    }
  }

  void later(Runnable action) {
    agenda.add(action);
  }

  /** A lookup, compared with the linear search that it stands for. */
  LookupResult lookup(SimEngine engine, SimEngine.SimRequest request, int first) {
    int host = linear(engine, request, ChainSearch.Level.HOT);
    int ssd = linear(engine, request, ChainSearch.Level.SERVABLE);
    LookupResult found = core.lookup(engine.id, request.id, 0, first, request.hashes.length);
    int resident = linear(engine, request, ChainSearch.Level.PRESENT);
    int servable = found.servableBlocks();
    if (found.hostBlocks() != host
        || found.ssdBlocks() != ssd
        || found.residentBlocks() < resident
        || servable < host
        || servable > ssd
        || (found.pending() && (servable != host || found.leaseId() != 0))) {
      throw new AssertionError(
          "lookup says %d of %d, %d, %d; linear search says %d, %d, %d"
              .formatted(
                  servable,
                  found.hostBlocks(),
                  found.ssdBlocks(),
                  found.residentBlocks(),
                  host,
                  ssd,
                  resident));
    }
    counts.merge(
        servable > Math.max(host, first) ? "hit on SSD" : found.leaseId() > 0 ? "hit" : "miss",
        1,
        Integer::sum);
    return found;
  }

  private int linear(SimEngine engine, SimEngine.SimRequest request, ChainSearch.Level level) {
    BlockIndex index = core.index();
    int depth = 0;
    while (depth < request.hashes.length) {
      long hash = request.hashes[depth];
      int entry = TreeChecker.find(core, engine.space.handle, 0, ~hash, hash);
      boolean is =
          entry != BlockIndex.NONE
              && switch (level) {
                case HOT ->
                    index.getInt(entry, EntryLayout.STATE) == EntryLayout.READY
                        && index.getInt(entry, EntryLayout.HOST) == EntryLayout.HOST_THERE;
                case SERVABLE -> index.getInt(entry, EntryLayout.STATE) == EntryLayout.READY;
                case PRESENT -> true;
              };
      if (!is) {
        break;
      }
      depth++;
    }
    return depth;
  }

  private void revokeSome() {
    for (SimEngine engine : engines) {
      for (SimEngine.Load load : List.copyOf(engine.loads.values())) {
        if (random.nextInt(8) == 0) {
          engine.revoke(load);
        }
      }
    }
  }

  /** The revoke word is set: the mover stops this part when it looks next. */
  void stop(long job, int rank) {
    counts.merge("revoked", 1, Integer::sum);
    for (SimMover.Copy copy : mover.running) {
      if (copy.job == job && copy.part == rank) {
        copy.failed = true;
      }
    }
  }

  private void rankDies(SimEngine engine) {
    int rank = random.nextInt(engine.space.ranks);
    counts.merge("rank died", 1, Integer::sum);
    core.abandonPart(engine.id, rank);
    for (SimMover.Copy copy : mover.running) {
      if (copy.gpu == engine.gpu && copy.rank == rank) {
        copy.failed = true;
      }
    }
  }

  private void engineDies(int index) {
    SimEngine dead = engines.get(index);
    counts.merge("engine died", 1, Integer::sum);
    orphans.addAll(dead.loads.keySet());
    core.closeInstance(dead.id);
    for (SimMover.Copy copy : mover.running) {
      if (copy.gpu == dead.gpu && random.nextBoolean()) {
        copy.failed = true;
      }
    }
    engines.set(index, new SimEngine(this, dead.id, dead.space));
  }

  private void reset(SimSpace space) {
    counts.merge("reset", 1, Integer::sum);
    space.version++;
    core.resetNamespace(space.handle);
  }

  /** A chain of up to 20 blocks out of few families that branch at fixed depths. */
  long[] chain(Random from) {
    long family = from.nextInt(3);
    int variant = from.nextInt(4);
    long[] hashes = new long[2 + from.nextInt(19)];
    Arrays.setAll(
        hashes, i -> 1 + family * 1_000_000 + (i < 4 * variant ? 0 : variant) * 1_000L + i);
    return hashes;
  }

  static byte[] bytes(long[] hashes) {
    ByteBuffer buffer = ByteBuffer.allocate(hashes.length * SimEngine.HASH_BYTES);
    for (long hash : hashes) {
      buffer.putLong(~hash).putLong(hash);
    }
    return buffer.array();
  }

  @Override
  public void startLoad(
      long jobId, int part, int[] gpuBlocks, long[] slotHandles, AvailableBlocks available) {
    if (available.count() < gpuBlocks.length) {
      counts.merge("load began early", 1, Integer::sum);
    }
    start(jobId, false, part, gpuBlocks, slotHandles, new long[0], available);
  }

  @Override
  public void startSave(
      long jobId, int part, int[] gpuBlocks, long[] slotHandles, long[] generations) {
    start(jobId, true, part, gpuBlocks, slotHandles, generations, AvailableBlocks.ALL);
  }

  private void start(
      long job,
      boolean save,
      int part,
      int[] blocks,
      long[] slotHandles,
      long[] generations,
      AvailableBlocks available) {
    SimEngine engine = engines.stream().filter(e -> e.jobs.contains(job)).findFirst().orElseThrow();
    if (blocks.length == 0 || blocks.length != slotHandles.length) {
      throw new AssertionError("job " + job + " copies " + blocks.length + " blocks");
    }
    mover.running.add(
        new SimMover.Copy(
            job,
            save,
            engine.gpu,
            part,
            engine.space.slotPart(part),
            blocks,
            slotHandles,
            generations,
            available));
  }

  @Override
  public void jobDone(long jobId, int part, JobStatus status) {
    if (status != JobStatus.VOID && !answered.add(jobId * 8 + part)) {
      throw new AssertionError("job " + jobId + " part " + part + " is answered twice");
    }
    for (SimMover.Copy copy : mover.running) {
      if (copy.job == jobId && copy.part == part) {
        throw new AssertionError("job " + jobId + " part " + part + " is answered while it runs");
      }
    }
    if (orphans.contains(jobId) && status == JobStatus.OK) {
      throw new AssertionError("load " + jobId + " of a dead engine is OK");
    }
    for (SimEngine engine : engines) {
      engine.answered(jobId, part, status);
    }
  }

  @Override
  public void startRead(SsdTransfer read, boolean live) {
    disk.start(read, false);
  }

  @Override
  public void startWrite(SsdTransfer write) {
    disk.start(write, true);
  }

  @Override
  public void cancelTransfer(long transferId) {
    disk.cancel(transferId);
  }

  @Override
  public void saveDone(long jobId, int committed, int skipped, int dropped) {
    counts.merge("saved", committed, Integer::sum);
    counts.merge("not saved", dropped, Integer::sum);
  }

  @Override
  public void evicted(Tier tier, int namespace, int group, long hash) {
    counts.merge(tier == Tier.HOST ? "evicted" : "evicted from SSD", 1, Integer::sum);
  }

  /** Lets everything come to its end: nothing may be left over, and what is there must be right. */
  private void drain() {
    offer(Integer.MAX_VALUE);
    for (int round = 0; round < 4; round++) {
      while (!agenda.isEmpty()) {
        agenda.removeFirst().run();
        now += SECOND / 20; // who asks again gives up at last
      }
      while (!mover.running.isEmpty()
          || !mover.reports.isEmpty()
          || !mover.lost.isEmpty()
          || !disk.idle()
          || core.turn() > 0) {
        mover.advance(random, slots);
        mover.report(random, core);
        disk.advance(random, slots);
        disk.report(random, core.ssd());
      }
      engines.forEach(SimEngine::endAll);
      check("leases of requests that ended", core.stats().leases());
      now += 100 * SECOND;
      core.tick();
    }
    for (int round = 0; round < 30 && (slots.shrinks() || disk.shrinks()); round++) {
      core.tick();
      core.turn();
      disk.advance(random, slots);
      disk.report(random, core.ssd());
    }
    check("slots to be given back", slots.shrinks() ? 1 : 0);
    check("SSD slots to be given back", disk.shrinks() ? 1 : 0);
    CacheStats stats = core.stats();
    check("jobs", stats.loadJobs() + stats.saveJobs());
    check("leases", stats.leases());
    check("chains", stats.chains());
    check("parked gos", stats.parkedGos());
    check("pending blocks", stats.pendingBlocks());
    check("slots in quarantine", stats.quarantinedSlots());
    check("transfers", stats.ssd().reads() + stats.ssd().writes() + stats.ssd().undrained());
    check("slots without a block", slots.taken() - stats.hostBlocks());
    check("SSD slots without a block", disk.taken() - stats.ssd().blocks());
    check("entries", TreeChecker.check(core) - stats.readyBlocks());
    counts.merge("copied", (int) mover.blocksCopied, Integer::sum);
    counts.merge("reported twice", (int) mover.duplicates, Integer::sum);
    counts.merge("checked", (int) blocksChecked, Integer::sum);
    checkWhatIsLeft();
  }

  private void check(String what, int left) {
    if (left != 0) {
      throw new AssertionError(what + " left at the end: " + left + ", " + core.stats());
    }
  }

  private void checkWhatIsLeft() {
    for (SimSpace space : spaces) {
      for (long family = 0; family < 3; family++) {
        for (int variant = 0; variant < 4; variant++) {
          for (int i = 0; i < 20; i++) {
            long hash = 1 + family * 1_000_000 + (i < 4 * variant ? 0 : variant) * 1_000L + i;
            int entry = TreeChecker.find(core, space.handle, 0, ~hash, hash);
            if (entry != BlockIndex.NONE) {
              check("pins", core.index().getInt(entry, EntryLayout.PINS));
              checkCopies(space, hash, entry);
            }
          }
        }
      }
    }
  }

  private void checkCopies(SimSpace space, long hash, int entry) {
    BlockIndex index = core.index();
    if (index.getInt(entry, EntryLayout.HOST) == EntryLayout.HOST_THERE) {
      checkSlot(space, hash, index.getLong(entry, EntryLayout.SLOT));
    }
    if (index.getInt(entry, EntryLayout.SSD) == EntryLayout.SSD_HELD
        && !disk.isTorn(index.getLong(entry, EntryLayout.SSD_SLOT))) {
      for (int part = 0; part < space.saveParts; part++) {
        long tag = disk.tag(index.getLong(entry, EntryLayout.SSD_SLOT), part);
        if (tag != space.tag(hash, space.version, part)) {
          throw new AssertionError("wrong bytes of block " + hash + " on the SSD");
        }
      }
      counts.merge("left on SSD and right", 1, Integer::sum);
    }
  }

  private void checkSlot(SimSpace space, long hash, long slot) {
    for (int part = 0; part < space.saveParts; part++) {
      if (slots.read(slot, part) != space.tag(hash, space.version, part)) {
        throw new AssertionError("slot " + slot + " holds wrong bytes of block " + hash);
      }
    }
    counts.merge("left and right", 1, Integer::sum);
  }
}
