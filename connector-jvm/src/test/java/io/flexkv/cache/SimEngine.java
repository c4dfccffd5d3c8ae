package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;

/**
 * A simulated engine: its requests compute blocks, save them, load them, get preempted, finish and
 * are aborted. It keeps the engine's side of the rules: counters go up before a block is handed
 * out, and a block of an open load is not handed on before every rank that started has its answer.
 */
final class SimEngine {
  static final int HASH_BYTES = 16;

  /** A load whose blocks are not back yet. */
  static final class Load {
    final long job;
    final SimRequest request;
    final int first;
    final int[] blocks;
    final long version;
    final Set<Integer> open = new HashSet<>();

    Load(long job, SimRequest request, int first, int[] blocks, long version) {
      this.job = job;
      this.request = request;
      this.first = first;
      this.blocks = blocks;
      this.version = version;
    }
  }

  static final class SimRequest {
    final long id;
    final long[] hashes;
    final List<Integer> blocks = new ArrayList<>();
    boolean waitsForLoad;
    boolean waitsForAnswer;
    boolean over;

    SimRequest(long id, long[] hashes) {
      this.id = id;
      this.hashes = hashes;
    }
  }

  final Simulation world;
  final int id;
  final SimSpace space;
  final SimGpu gpu;
  final Map<Long, Load> loads = new HashMap<>();
  final Set<Long> jobs = new HashSet<>();
  final List<SimRequest> requests = new ArrayList<>();
  private final Random random;

  SimEngine(Simulation world, int id, SimSpace space) {
    this.world = world;
    this.id = id;
    this.space = space;
    this.random = world.random;
    this.gpu = new SimGpu(space.ranks, 40 + random.nextInt(40));
    world.core.openInstance(id, space.handle);
  }

  void act() {
    if (requests.isEmpty() || (requests.size() < 6 && random.nextInt(4) == 0)) {
      begin();
      return;
    }
    SimRequest request = requests.get(random.nextInt(requests.size()));
    switch (random.nextInt(12)) {
      case 0 -> finish(request);
      case 1 -> preempt(request);
      case 2 -> abort(request);
      default -> {
        // After a failed load some blocks hold nothing: the request only waits for its end.
        if (!request.waitsForLoad && !request.waitsForAnswer && !request.over) {
          computeAndSave(request);
        }
      }
    }
  }

  private void begin() {
    SimRequest request = new SimRequest(world.nextRequest++, world.chain(random));
    requests.add(request);
    admit(request);
  }

  /**
   * Computes some blocks as if they were hit locally, asks for the rest, and loads what is there.
   */
  private void admit(SimRequest request) {
    byte[] hashes = Simulation.bytes(request.hashes);
    int known = random.nextInt(request.hashes.length + 1);
    world.core.extendChain(id, request.id, 0, hashes, HASH_BYTES, known);
    if (!world.core.extendChain(id, request.id, 0, hashes, HASH_BYTES, request.hashes.length)) {
      throw new AssertionError("chain of request " + request.id + " is refused");
    }
    int local = random.nextInt(3) == 0 ? random.nextInt(3) : 0;
    compute(request, local);
    ask(request);
  }

  /** Asks what can be loaded beyond its own blocks, again later if the answer is "ask again". */
  private void ask(SimRequest request) {
    int first = request.blocks.size();
    LookupResult found = world.lookup(this, request, first);
    request.waitsForAnswer = found.pending();
    if (found.pending()) {
      world.counts.merge("ask again", 1, Integer::sum);
      long version = space.version;
      world.later(() -> {
        if (request.waitsForAnswer && requests.contains(request) && world.engines.contains(this)) {
          askAgain(request, version);
        }
      });
      return;
    }
    int n = Math.min(found.servableBlocks() - first, gpu.free());
    if (found.leaseId() == 0 || n <= 0) {
      return;
    }
    int[] blocks = new int[n];
    Arrays.setAll(blocks, i -> gpu.take(random));
    plan(request, first, blocks);
  }

  private void askAgain(SimRequest request, long version) {
    if (version == space.version) {
      ask(request);
    } else {
      preempt(request); // what it has itself was computed before the reset
    }
  }

  private void plan(SimRequest request, int first, int[] blocks) {
    Load load = new Load(world.nextJob++, request, first, blocks, space.version);
    request.waitsForLoad = true;
    loads.put(load.job, load);
    jobs.add(load.job);
    List<Integer> early = new ArrayList<>();
    List<Integer> late = new ArrayList<>();
    for (int rank = 0; rank < space.ranks; rank++) {
      load.open.add(rank);
      if (random.nextInt(25) > 0) {
        (random.nextInt(5) == 0 ? early : late).add(rank);
      }
    }
    early.forEach(rank -> world.core.go(load.job, rank));
    if (random.nextInt(50) > 0) {
      if (random.nextInt(10) == 0) {
        world.later(
            () -> world.core.planLoad(id, load.job, request.id, 0, first, blocks, space.ranks));
      } else {
        world.core.planLoad(id, load.job, request.id, 0, first, blocks, space.ranks);
      }
    }
    late.forEach(rank -> world.later(() -> go(load, rank)));
    if (random.nextInt(20) == 0) {
      world.later(() -> world.core.planLoad(id, load.job, request.id, 0, first, blocks, 1));
      world.later(() -> go(load, 0));
    }
    if (random.nextInt(6) == 0) {
      abort(request);
    }
  }

  /** A worker says go, again perhaps, as long as it waits for its answer; never after it. */
  private void go(Load load, int rank) {
    if (load.open.contains(rank)) {
      world.core.go(load.job, rank);
    }
  }

  /**
   * A rank has its answer: its bytes are in place if that is OK, and nobody writes them any more.
   */
  void answered(long job, int rank, JobStatus status) {
    Load load = loads.get(job);
    if (load == null || !load.open.remove(rank)) {
      return;
    }
    if (status == JobStatus.OK) {
      world.counts.merge("load part ok", 1, Integer::sum);
      if (load.version != space.version) {
        throw new AssertionError("load " + job + " is OK though planned before a reset");
      }
      for (int i = 0; i < load.blocks.length; i++) {
        long hash = load.request.hashes[load.first + i];
        long expected = space.tag(hash, load.version, rank);
        if (gpu.tags[rank][load.blocks[i]] != expected) {
          throw new AssertionError(
              "load %d rank %d: wrong bytes in chain block %d"
                  .formatted(job, rank, load.first + i));
        }
        world.blocksChecked++;
      }
    } else {
      world.counts.merge("load part " + status, 1, Integer::sum);
      load.request.over = true;
    }
    if (load.open.isEmpty()) {
      drained(load);
    }
  }

  private void drained(Load load) {
    loads.remove(load.job);
    load.request.waitsForLoad = false;
    for (int block : load.blocks) {
      load.request.blocks.add(block);
    }
    if (load.request.over) {
      world.later(() -> finish(load.request));
    }
  }

  /** Ranks whose go was lost, or that waited for too long, take their parts back. */
  void revoke(Load load) {
    for (int rank : List.copyOf(load.open)) {
      if (!world.core.revokeLoad(load.job, rank)) {
        answered(load.job, rank, JobStatus.VOID);
      } else {
        world.stop(load.job, rank);
      }
    }
  }

  private void computeAndSave(SimRequest request) {
    compute(request, 1 + random.nextInt(5));
    int filled = request.blocks.size();
    int first = filled == 0 ? 0 : random.nextInt(3) > 0 ? 0 : random.nextInt(filled);
    if (filled == first || random.nextInt(4) == 0) {
      return;
    }
    int[] blocks = request.blocks.subList(first, filled).stream().mapToInt(b -> b).toArray();
    long[] generations = Arrays.stream(blocks).mapToLong(b -> gpu.generations[b]).toArray();
    long job = world.nextJob++;
    jobs.add(job);
    List<Integer> late = new ArrayList<>();
    for (int rank = 0; rank < space.saveParts; rank++) {
      if (random.nextInt(8) == 0) {
        world.core.go(job, rank);
      } else if (random.nextInt(40) > 0) {
        late.add(rank);
      }
    }
    world.core.planSave(id, job, request.id, 0, first, blocks, generations);
    late.forEach(rank -> world.later(() -> world.core.go(job, rank)));
    if (random.nextInt(20) == 0) {
      world.later(() -> world.core.go(job, 0));
      world.core.planSave(id, job, request.id, 0, first, blocks, generations);
    }
  }

  private void compute(SimRequest request, int blocks) {
    for (int i = 0; i < blocks; i++) {
      int at = request.blocks.size();
      if (at == request.hashes.length || gpu.free() == 0) {
        return;
      }
      int block = gpu.take(random);
      for (int rank = 0; rank < space.ranks; rank++) {
        gpu.tags[rank][block] = space.tag(request.hashes[at], space.version, rank);
      }
      request.blocks.add(block);
    }
  }

  private void preempt(SimRequest request) {
    if (request.waitsForLoad || request.over) {
      return;
    }
    request.waitsForAnswer = false;
    request.blocks.forEach(gpu::release);
    request.blocks.clear();
    admit(request);
  }

  private void finish(SimRequest request) {
    if (request.waitsForLoad || !requests.remove(request)) {
      return;
    }
    request.blocks.forEach(gpu::release);
    world.core.endRequest(id, request.id);
  }

  /** Ends a request at any time; with an open load its blocks stay until that has drained. */
  private void abort(SimRequest request) {
    if (!request.waitsForLoad) {
      finish(request);
      return;
    }
    request.over = true;
    world.core.endRequest(id, request.id);
    if (random.nextBoolean()) {
      loads.values().stream()
          .filter(load -> load.request == request)
          .toList()
          .forEach(load -> world.later(() -> revoke(load)));
    }
  }

  void endAll() {
    List.copyOf(loads.values()).forEach(this::revoke);
    List.copyOf(requests).forEach(this::finish);
  }
}
