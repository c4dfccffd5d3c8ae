package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Predicate;

/**
 * What {@link CacheCore} should do, written as plainly as possible: maps, linear searches, nothing
 * remembered that can be counted. Blocks are told apart by their hash; it has the core's answers
 * and notices as its results.
 */
final class NaiveCache extends NaiveSsd {
  private final long hostCapacity;

  NaiveCache(CacheConfig config, SsdConfig ssdConfig, long hostCapacity, long ssdCapacity) {
    super(config, ssdConfig, hostCapacity, ssdCapacity);
    this.hostCapacity = hostCapacity;
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
      return new Answer(0, 0, 0, false, 0, 0, false);
    }
    chain.generation = space.generation;
    int length = chain.hashes.size();
    int limit = Math.min(length, first + max);
    int hot = depth(space, group, chain, limit, Block::hot);
    int deep = depth(space, group, chain, limit, block -> block.ready);
    int resident = depth(space, group, chain, length, block -> true);
    LeaseKey key = new LeaseKey(instance, request, group);
    int servable = hot;
    if (deep > Math.max(hot, first)) {
      servable = ask(key, space, first, hot, deep, block(space, group, chain, deep - 1));
      if (servable < 0) {
        return new Answer(length, hot, resident, false, hot, deep, true);
      }
    }
    if (servable > 0) {
      Block deepest = block(space, group, chain, servable - 1);
      touch(deepest);
      hit(deepest);
      if (servable > first) {
        take(key, space, deepest, servable);
      }
    }
    return new Answer(length, servable, resident, servable > first, hot, deep, false);
  }

  private Block block(Space space, int group, Chain chain, int at) {
    return blocks.get(new Key(space.handle, group, chain.hashes.get(at)));
  }

  private int depth(Space space, int group, Chain chain, int limit, Predicate<Block> condition) {
    int depth = 0;
    while (depth < limit) {
      Block block = block(space, group, chain, depth);
      if (block == null || !condition.test(block)) {
        break;
      }
      depth++;
    }
    return depth;
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
        Block block = block(space, group, chain, first + i);
        if (block != null && block.ready && block.host != Host.NONE) {
          wanted.add(block);
        }
      }
    }
    boolean served = wanted.size() == gpu.length;
    Work load =
        served ? new Work(job, instance, space, false, now, 0, 0, wanted, gpu, parts) : null;
    if (served) {
      load.held = wanted.getLast();
      attach(load);
    }
    endLeases(key -> key.equals(new LeaseKey(instance, request, group)));
    if (!served) {
      refuse(job, parts, "FAILED", gone);
      return false;
    }
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
    if (!plannable(space, chain, first, n)) {
      refuse(job, space.parts, "FAILED", gone);
      expected.add("saved %d 0 0 %d".formatted(job, n));
      return;
    }
    Block above = first == 0 ? null : block(space, group, chain, first - 1);
    boolean possible = first == 0 || above != null;
    int skipped = 0;
    while (possible && skipped < n) {
      Block there = block(space, group, chain, first + skipped);
      if (there == null) {
        break;
      }
      above = there;
      skipped++;
    }
    List<Block> placed = new ArrayList<>();
    Block held = above != null && above.ready ? above : null;
    if (possible) {
      placed.addAll(place(space, group, chain, first + skipped, n - skipped, above, held));
    }
    if (placed.isEmpty()) {
      refuse(job, space.parts, possible && skipped == n ? "OK" : "FAILED", gone);
      expected.add("saved %d 0 %d %d".formatted(job, skipped, n - skipped));
    } else {
      int[] sub = Arrays.copyOfRange(gpu, skipped, skipped + placed.size());
      int unplaced = n - skipped - placed.size();
      Work save =
          new Work(job, instance, space, true, now, skipped, unplaced, placed, sub, space.parts);
      save.held = held;
      jobs.put(job, save);
      startParked(save, gone);
    }
    freeAhead(space, hostCapacity);
  }

  /** As many blocks from one on as find room, under a parent, which stays meanwhile. */
  private List<Block> place(
      Space space, int group, Chain chain, int from, int count, Block parent, Block held) {
    List<Block> placed = new ArrayList<>();
    guarded.add(held);
    mayEvictOthersAgain(Tier.HOST);
    Block above = parent;
    while (placed.size() < count && makeRoom(Tier.HOST, space)) {
      long hash = chain.hashes.get(from + placed.size());
      above = new Block(space, new Key(space.handle, group, hash), above);
      above.host = Host.THERE;
      above.hostRoom = new Room(space.slotBytes);
      blocks.put(above.key, above);
      placed.add(above);
    }
    guarded.remove(guarded.size() - 1);
    return placed;
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
        publish(block);
      }
    }
    done(job, part, good ? "OK" : save.failure);
    settleAll();
    pump();
  }

  private void publish(Block block) {
    if (block.whole && !block.ready && (block.above == null || block.above.ready)) {
      block.ready = true;
      inHostNow(block);
      published(block);
      children(block).forEach(this::publish);
    }
  }

  void end(int instance, long request) {
    Map<Long, Chain> mine = chains.get(instance);
    if (mine != null && mine.remove(request) != null) {
      endLeases(key -> key.instance() == instance && key.request() == request);
    }
  }

  void reset(int handle) {
    Space space = spaces.get(handle);
    space.generation++;
    endLeases(key -> leases.get(key).space == space);
    for (Work work : List.copyOf(jobs.values())) {
      if (work.space == space) {
        if (work.save) {
          work.held = null;
          lose(work);
        } else {
          blocksGo(work);
        }
      }
    }
    blocks.values().stream().filter(block -> block.space == space).forEach(NaiveCopies::forget);
    blocks.values().removeIf(block -> block.removed);
    settleAll();
    expected.add("cleared " + handle + " " + space.generation);
  }

  void closeInstance(int instance) {
    if (instances.remove(instance) == null) {
      return;
    }
    chains.remove(instance);
    endLeases(key -> key.instance() == instance);
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
    endLeases(key -> now - leases.get(key).refreshed >= config.leaseNanos());
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
    readAhead();
    pump();
  }

  private boolean plannable(Space space, Chain chain, int first, int count) {
    return chain != null
        && chain.generation == space.generation
        && first + count <= chain.hashes.size()
        && jobs.size() < config.maxOpenJobs();
  }

  private void lose(Work save) {
    for (Block block : save.blocks) {
      if (!block.removed) {
        dropTree(block);
      }
    }
  }

  @Override
  void cut(Work load) {
    load.held = load.available == 0 ? null : load.blocks.get(load.available - 1);
    load.cut = true;
    left(load);
    failWaiting(load);
  }

  @Override
  void blocksGo(Work load) {
    if (!load.stale) {
      load.stale = true;
      load.held = null;
      left(load);
    }
    failWaiting(load);
  }

  private void failWaiting(Work work) {
    for (int part = 0; part < work.parts.length; part++) {
      if (work.parts[part].equals("waits")) {
        work.parts[part] = "silent";
      }
    }
    settle(work);
  }

  @Override
  void settleAll() {
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
      left(work);
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
