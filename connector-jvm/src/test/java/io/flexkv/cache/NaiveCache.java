package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;

/**
 * What {@link CacheCore} should do, written as plainly as possible: maps, linear searches, nothing
 * remembered that can be counted. Blocks are told apart by their hash; it has the core's answers
 * and notices as its results.
 */
final class NaiveCache extends NaiveState {
  NaiveCache(CacheConfig config, long capacity) {
    super(config, capacity);
  }

  void open(Space space) {
    spaces.add(space);
  }

  void openInstance(int instance, int space) {
    instances.put(instance, spaces.get(space));
    chains.putIfAbsent(instance, new TreeMap<>());
  }

  boolean extend(int instance, long request, int first, List<Long> hashes) {
    if (!instances.containsKey(instance)) {
      return false;
    }
    Map<Long, Chain> mine = chains.get(instance);
    Chain chain = mine.get(request);
    List<Long> known = chain == null ? List.of() : chain.hashes;
    boolean good = first <= known.size() && first + hashes.size() <= config.maxChainBlocks();
    for (int i = 0; good && i < hashes.size(); i++) {
      good = first + i >= known.size() || known.get(first + i).equals(hashes.get(i));
    }
    int added = Math.max(0, first + hashes.size() - known.size());
    if (!good
        || chainBlocks() + added > config.maxChainBlocksTotal()
        || (chain == null && mine.size() == config.maxChainsPerInstance())) {
      end(instance, request);
      return false;
    }
    if (chain == null) {
      chain = new Chain();
      chain.generation = instances.get(instance).generation;
      mine.put(request, chain);
    }
    for (int i = chain.hashes.size(); i < first + hashes.size(); i++) {
      chain.hashes.add(hashes.get(i - first));
    }
    return true;
  }

  Answer lookup(int instance, long request, int group, int first, int max) {
    Space space = instances.get(instance);
    Chain chain = space == null ? null : chains.get(instance).get(request);
    if (chain == null) {
      return new Answer(0, 0, 0, false);
    }
    chain.generation = space.generation;
    int servable = 0;
    while (servable < Math.min(chain.hashes.size(), first + max)) {
      Block block = blocks.get(new Key(space.handle, group, chain.hashes.get(servable)));
      if (block == null || !block.ready) {
        break;
      }
      servable++;
    }
    int resident = 0;
    while (resident < chain.hashes.size()
        && blocks.containsKey(new Key(space.handle, group, chain.hashes.get(resident)))) {
      resident++;
    }
    if (servable > 0) {
      Block deepest = blocks.get(new Key(space.handle, group, chain.hashes.get(servable - 1)));
      deepest.used = ++tick;
      if (servable > first) {
        Lease lease =
            leases.computeIfAbsent(new LeaseKey(instance, request, group), key -> new Lease());
        if (servable > lease.depth) {
          lease.depth = servable;
          lease.deepest = deepest;
        }
        lease.refreshed = now;
      }
    }
    return new Answer(chain.hashes.size(), servable, resident, servable > first);
  }

  boolean planLoad(
      int instance, long job, long request, int group, int first, int[] gpu, int parts) {
    if (jobs.containsKey(job)) {
      return !jobs.get(job).save;
    }
    if (ended.containsKey(job)) {
      return false;
    }
    Parked gone = parked.remove(job);
    Space space = instances.get(instance);
    Chain chain = space == null ? null : chains.get(instance).get(request);
    List<Block> wanted = new ArrayList<>();
    if (plannable(space, chain, first, gpu.length)) {
      for (int i = 0; i < gpu.length; i++) {
        Block block = blocks.get(new Key(space.handle, group, chain.hashes.get(first + i)));
        if (block != null && block.ready) {
          wanted.add(block);
        }
      }
    }
    leases.remove(new LeaseKey(instance, request, group));
    if (wanted.size() < gpu.length) {
      refuse(job, parts, "FAILED", gone);
      return false;
    }
    Work load = new Work(job, instance, space, false, now, 0, 0, wanted, gpu, parts);
    load.held = wanted.get(wanted.size() - 1);
    jobs.put(job, load);
    startParked(load, gone);
    return true;
  }

  void planSave(int instance, long job, long request, int group, int first, int[] gpu) {
    Space space = instances.get(instance);
    if (jobs.containsKey(job) || ended.containsKey(job) || space == null) {
      return;
    }
    Parked gone = parked.remove(job);
    Chain chain = chains.get(instance).get(request);
    int n = gpu.length;
    Block above = null;
    boolean possible = plannable(space, chain, first, n);
    if (possible && first > 0) {
      above = blocks.get(new Key(space.handle, group, chain.hashes.get(first - 1)));
      possible = above != null;
    }
    int skipped = 0;
    while (possible && skipped < n) {
      Block there = blocks.get(new Key(space.handle, group, chain.hashes.get(first + skipped)));
      if (there == null) {
        break;
      }
      above = there;
      skipped++;
    }
    List<Block> placed = new ArrayList<>();
    Block held = above != null && above.ready ? above : null;
    foreign = 0;
    if (possible) {
      Lease guard = new Lease();
      guard.deepest = held;
      leases.put(new LeaseKey(-1, -1, -1), guard);
      while (skipped + placed.size() < n && makeRoom(space)) {
        int at = first + skipped + placed.size();
        Block block =
            new Block(
                space,
                new Key(space.handle, group, chain.hashes.get(at)),
                at == 0 ? null : chain.hashes.get(at - 1));
        blocks.put(block.key, block);
        placed.add(block);
      }
      leases.remove(new LeaseKey(-1, -1, -1));
    }
    if (placed.isEmpty()) {
      refuse(job, space.parts, possible && skipped == n ? "OK" : "FAILED", gone);
      expected.add("saved %d 0 %d %d".formatted(job, skipped, n - skipped));
      return;
    }
    int[] sub = Arrays.copyOfRange(gpu, skipped, skipped + placed.size());
    int unplaced = n - skipped - placed.size();
    Work save =
        new Work(job, instance, space, true, now, skipped, unplaced, placed, sub, space.parts);
    save.held = held;
    jobs.put(job, save);
    startParked(save, gone);
  }

  private void refuse(long job, int parts, String status, Parked gone) {
    ended.put(job, new Ended(status, parts));
    if (gone != null) {
      gone.parts.forEach(part -> go(job, part));
    }
  }

  boolean revoke(long job, int part) {
    Work work = jobs.get(job);
    if (work != null) {
      if (work.save || part >= work.parts.length) {
        return false;
      }
      if (work.parts[part].equals("waits")) {
        work.parts[part] = "silent";
        settle(work);
      }
      if (!work.parts[part].equals("silent")) {
        return work.parts[part].equals("runs");
      }
      go(job, part);
    } else if (ended.containsKey(job)) {
      go(job, part);
    } else {
      if (parked.containsKey(job)) {
        parked.get(job).parts.remove(part);
        parked.values().removeIf(p -> p.parts.isEmpty());
      }
      done(job, part, "VOID");
    }
    return false;
  }

  void go(long job, int part) {
    Work work = jobs.get(job);
    if (work != null) {
      start(work, part);
    } else if (ended.containsKey(job)) {
      if (ended.get(job).owed.remove(part)) {
        done(job, part, ended.get(job).status);
      }
    } else {
      Parked waiting = parked.get(job);
      if (waiting != null && waiting.parts.contains(part)) {
        return;
      }
      if (parkedCount() == config.maxParkedGos()) {
        done(job, part, "VOID");
        return;
      }
      parked.computeIfAbsent(job, id -> new Parked(now)).parts.add(part);
    }
  }

  void loadDone(long job, int part, boolean ok) {
    Work load = jobs.get(job);
    if (load == null || load.save || part >= load.parts.length || !runs(load, part)) {
      return;
    }
    load.parts[part] = "ended";
    boolean good = ok && !load.stale && load.failure.equals("FAILED");
    done(job, part, good ? "OK" : load.failure);
    settle(load);
  }

  void saveDone(long job, int part, boolean[] ok) {
    Work save = jobs.get(job);
    if (save == null || !save.save || part >= save.parts.length || !runs(save, part)) {
      return;
    }
    save.parts[part] = "ended";
    List<Integer> sent = save.sent.remove(part);
    for (int i = 0; i < sent.size(); i++) {
      Block block = save.blocks.get(sent.get(i));
      if (!block.removed && !ok[i]) {
        dropTree(block);
      }
    }
    boolean good = true;
    for (int index : sent) {
      Block block = save.blocks.get(index);
      if (block.removed) {
        good = false;
      } else if (save.in.merge(index, 1, Integer::sum) == save.parts.length) {
        block.whole = true;
      }
    }
    boolean more = true;
    while (more) {
      more = false;
      for (Block block : blocks.values()) {
        if (block.whole && !block.ready && (block.parent == null || parent(block).ready)) {
          block.ready = true;
          published.add(block);
          more = true;
        }
      }
    }
    done(job, part, good ? "OK" : save.failure);
    settleAll();
  }

  /** Blocks become servable in the order of the core's notices; each is then the latest used. */
  void ordered(Block block) {
    block.used = ++tick;
  }

  void end(int instance, long request) {
    Map<Long, Chain> mine = chains.get(instance);
    if (mine != null && mine.remove(request) != null) {
      leases.keySet().removeIf(key -> key.instance() == instance && key.request() == request);
    }
  }

  void reset(int handle) {
    Space space = spaces.get(handle);
    space.generation++;
    leases.values().removeIf(lease -> lease.deepest.space == space);
    for (Work work : List.copyOf(jobs.values())) {
      if (work.space == space) {
        work.held = null;
        if (work.save) {
          lose(work);
        } else {
          work.stale = true;
          failWaiting(work);
        }
      }
    }
    for (Block block : List.copyOf(blocks.values())) {
      if (block.space == space) {
        block.removed = true;
        blocks.remove(block.key);
      }
    }
    settleAll();
    expected.add("cleared " + handle + " " + space.generation);
  }

  void closeInstance(int instance) {
    if (instances.remove(instance) == null) {
      return;
    }
    chains.remove(instance);
    leases.keySet().removeIf(key -> key.instance() == instance);
    for (Work work : List.copyOf(jobs.values())) {
      if (work.instance == instance) {
        work.failure = "VOID";
      }
    }
    for (Work work : List.copyOf(jobs.values())) {
      if (work.instance == instance) {
        if (work.save) {
          lose(work);
        } else {
          failWaiting(work);
        }
      }
    }
    settleAll();
  }

  void abandon(int instance, int part) {
    for (Work work : List.copyOf(jobs.values())) {
      if (work.instance == instance
          && part < work.parts.length
          && work.parts[part].equals("waits")) {
        if (work.save) {
          lose(work);
        } else {
          work.parts[part] = "silent";
        }
      }
    }
    settleAll();
  }

  void tick() {
    leases.values().removeIf(lease -> now - lease.refreshed >= config.leaseNanos());
    for (long job : List.copyOf(parked.keySet())) {
      if (now - parked.get(job).since >= config.parkedNanos()) {
        parked.remove(job).parts.forEach(part -> done(job, part, "VOID"));
      }
    }
    for (Work work : List.copyOf(jobs.values())) {
      if (work.has("waits") && now - work.planned >= config.planNanos()) {
        if (work.save) {
          lose(work);
        } else {
          failWaiting(work);
        }
      }
    }
    settleAll();
  }

  private boolean plannable(Space space, Chain chain, int first, int count) {
    return chain != null
        && chain.generation == space.generation
        && first + count <= chain.hashes.size()
        && jobs.size() < config.maxOpenJobs();
  }

  private boolean makeRoom(Space space) {
    if (usedBytes() + space.slotBytes <= capacity) {
      return true;
    }
    if (evictOldest(space.slotBytes)) {
      return true;
    }
    while (foreign < config.maxForeignEvictionsPerPlan()) {
      Map<Long, Long> bytesOfSize = new LinkedHashMap<>();
      spaces.forEach(other -> bytesOfSize.putIfAbsent(other.slotBytes, 0L));
      for (Block block : blocks.values()) {
        if (block.ready) {
          bytesOfSize.merge(block.space.slotBytes, block.space.slotBytes, Long::sum);
        }
      }
      long best = -1;
      for (Map.Entry<Long, Long> size : bytesOfSize.entrySet()) {
        if (size.getKey() != space.slotBytes
            && oldest(size.getKey()) != null
            && (best < 0 || size.getValue() > bytesOfSize.get(best))) {
          best = size.getKey();
        }
      }
      if (best < 0) {
        return false;
      }
      evictOldest(best);
      foreign++;
      if (usedBytes() + space.slotBytes <= capacity) {
        return true;
      }
    }
    return false;
  }

  private boolean evictOldest(long slotBytes) {
    Block victim = oldest(slotBytes);
    if (victim == null) {
      return false;
    }
    evicted.add(
        "evicted %d %d %d"
            .formatted(victim.key.namespace(), victim.key.group(), victim.key.hash()));
    remove(victim);
    return true;
  }

  private void remove(Block block) {
    blocks.remove(block.key);
    block.removed = true;
    if (block.parent != null && block.ready) {
      Block parent = parent(block);
      if (!hasChildren(parent)) {
        parent.used = Math.max(parent.used, block.used);
      }
    }
  }

  private void dropTree(Block block) {
    for (Block other : List.copyOf(blocks.values())) {
      if (Objects.equals(other.parent, block.key.hash())
          && other.space == block.space
          && other.key.group() == block.key.group()) {
        dropTree(other);
      }
    }
    remove(block);
  }

  private void lose(Work save) {
    for (Block block : save.blocks) {
      if (!block.removed) {
        dropTree(block);
      }
    }
  }

  private void failWaiting(Work work) {
    for (int part = 0; part < work.parts.length; part++) {
      if (work.parts[part].equals("waits")) {
        work.parts[part] = "silent";
      }
    }
    settle(work);
  }

  private void settleAll() {
    List.copyOf(jobs.values()).forEach(this::settle);
  }

  private void settle(Work work) {
    if (!jobs.containsKey(work.id)) {
      return;
    }
    if (work.save && !work.alive() && work.has("waits")) {
      failWaiting(work);
      return;
    }
    if (!work.has("waits") && !work.has("runs")) {
      jobs.remove(work.id);
      Ended over = new Ended(work.failure, work.parts.length);
      over.owed.removeIf(part -> work.parts[part].equals("ended"));
      ended.put(work.id, over);
      if (work.save) {
        int whole = (int) work.blocks.stream().filter(block -> block.whole).count();
        expected.add(
            "saved %d %d %d %d"
                .formatted(
                    work.id, whole, work.skipped, work.blocks.size() - whole + work.unplaced));
      }
    }
  }

  private static boolean runs(Work work, int part) {
    return work.parts[part].equals("runs");
  }

  private void startParked(Work work, Parked gone) {
    if (gone != null) {
      gone.parts.forEach(part -> start(work, part));
    }
  }

  private void start(Work work, int part) {
    if (part < work.parts.length && work.parts[part].equals("silent")) {
      work.parts[part] = "ended";
      done(work.id, part, work.failure);
      return;
    }
    if (part >= work.parts.length || !work.parts[part].equals("waits")) {
      return;
    }
    work.parts[part] = "runs";
    List<Integer> sent = new ArrayList<>();
    List<Integer> gpu = new ArrayList<>();
    for (int i = 0; i < work.blocks.size(); i++) {
      if (!work.save || !work.blocks.get(i).removed) {
        sent.add(i);
        gpu.add(work.gpu[i]);
      }
    }
    work.sent.put(part, sent);
    expected.add("start %s %d %d %s".formatted(work.save ? "save" : "load", work.id, part, gpu));
  }

  private void done(long job, int part, String status) {
    expected.add("done %d %d %s".formatted(job, part, status));
  }
}
