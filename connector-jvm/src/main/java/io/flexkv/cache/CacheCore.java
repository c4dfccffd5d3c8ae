package io.flexkv.cache;

import java.lang.foreign.MemorySegment;
import java.util.function.LongSupplier;

/**
 * The cache core: which blocks are there, who may read them, and what is copied next.
 *
 * <p>One thread calls it. It does no I/O, and its clock and seed come from outside, so that a run
 * repeats exactly. What it wants done goes through {@link CacheEffects}; what became of it comes
 * back by {@link #loadPartDone} and {@link #savePartDone}. Nothing that a client can say makes it
 * throw, except where a method says so.
 */
public final class CacheCore {
  /*
   * What always holds, and why.
   *
   * (1) Closed. An entry exists only while its parent does; it is servable (READY) only while its
   * parent is. So along a chain "servable" and "present" are monotone, and a lookup is two binary
   * searches. BlockTree alone changes entries: it adds under a parent, publishes top down, removes
   * leaves first. Eviction takes leaves only.
   *
   * (2) A key finds right bytes or nothing. A key mixes the block's hash with namespace, generation
   * and group (KeySalt); a reset raises the generation, and from then on older entries cannot be
   * found, whatever else happens. A plan made by a request that was last looked up under an older
   * generation is refused both ways: its bytes, or what it was promised, may be from before.
   *
   * (3) A block is READY only if one attempt brought in every part of it, each copied whole while
   * the engine's block was still the planned one (the mover says so for each block). Parts of
   * different attempts never meet in a slot: a slot belongs to one attempt from its allocation to
   * its completion, and an attempt that loses one part of a block loses the block.
   *
   * (4) A slot is free only when no copy can touch it. A load pins its deepest block from its plan to
   * the end of its last part; pinned blocks and their ancestors are not evicted. Only a reset takes
   * pinned blocks away: then the load holds its slots in the pool. A save counts the copies
   * running for each of its blocks; a dropped block's slot stays with the attempt until that
   * count is zero. Both are what is called quarantine.
   *
   * (5) Every part of every job ends once, and every go is answered once. A part waits, runs, ends
   * (Job); whoever moves it on checks where it stands, so duplicates and late messages do nothing.
   * A part that waits ends by tick(), by its rank's end, or by its instance's, and is answered when
   * its go comes after all (EndedJobs remembers for a while). A part that runs ends when the mover
   * has reported it, and by nothing else, since until then its copy may touch memory.
   *
   * (6) Everything is bounded: by the pools (entries), by CacheConfig (chains, jobs, parked gos,
   * remembered ids), by SsdConfig (bytes being read, written, queued) or by these (leases: one a
   * chain and group).
   *
   * (7) READY means servable from some tier. Which copies a block has, and what that means for its
   * neighbours, is kept in Copies; blocks go to the SSD by SsdWrites and come from there by
   * Promotions. Bytes that come from there are verified before the core is told, so a slot of the
   * host tier that a load may read holds right bytes whatever tier they came from. A transfer holds
   * the slots on both sides until it is drained, whatever becomes of its blocks.
   */

  private final CacheConfig config;
  private final LongSupplier nanoTime;
  private final CacheEffects effects;
  private final Counters counters = new Counters();
  private final BlockIndex index;
  private final SlotPool pool;
  private final Namespaces namespaces;
  private final BlockTree tree;
  private final Leases leases;
  private final JobTable jobs;
  private final Evictor evictor;
  private final LowerTier lower;
  private final SsdReports ssdReports;
  private final Vacating vacating;
  private final PolicyLearning learning;
  private final Instances instances;
  private final Lookups lookups;
  private final JobCalls calls;

  /**
   * An empty core.
   *
   * @param config its limits
   * @param slots where blocks get room
   * @param effects what it acts through
   * @param nanoTime the clock, in nanoseconds from any origin; never goes back
   * @param seed where keys fall in the index depends on it; no answer does
   */
  public CacheCore(
      CacheConfig config,
      SlotAllocator slots,
      CacheEffects effects,
      LongSupplier nanoTime,
      long seed) {
    this(config, EvictionSettings.DEFAULT, slots, effects, nanoTime, seed);
  }

  /**
   * An empty core.
   *
   * @param eviction how room is made in each tier
   */
  public CacheCore(
      CacheConfig config,
      EvictionSettings eviction,
      SlotAllocator slots,
      CacheEffects effects,
      LongSupplier nanoTime,
      long seed) {
    this(
        config, eviction, slots, SlotAllocator.NONE, SsdConfig.forHost(1), effects, nanoTime, seed);
  }

  /**
   * An empty core with an SSD tier.
   *
   * @param ssdSlots where blocks get room on the SSD; {@link SlotAllocator#NONE} if there is none
   * @param ssdConfig how it is used
   */
  public CacheCore(
      CacheConfig config,
      EvictionSettings eviction,
      SlotAllocator slots,
      SlotAllocator ssdSlots,
      SsdConfig ssdConfig,
      CacheEffects effects,
      LongSupplier nanoTime,
      long seed) {
    this.config = config;
    this.nanoTime = nanoTime;
    this.effects = effects;
    index = new OffHeapBlockIndex(seed);
    AttemptTable attempts = new AttemptTable();
    pool = new SlotPool(slots);
    SlotPool ssdPool = new SlotPool(ssdSlots);
    EvictionPolicies policies = new EvictionPolicies(index, eviction, nanoTime);
    namespaces = new Namespaces(config, policies);
    learning = new PolicyLearning(index, namespaces);
    Copies copies = new Copies(index, namespaces, pool, ssdPool, effects, counters);
    tree = new BlockTree(index, namespaces, attempts, pool, copies, counters);
    leases = new Leases(tree);
    int foreign = config.maxForeignEvictionsPerPlan();
    evictor = new Evictor(Tier.HOST, policies, tree, pool, foreign, eviction);
    lower =
        new LowerTier(
            ssdConfig,
            ssdPool,
            new Evictor(Tier.SSD, policies, tree, ssdPool, foreign, eviction),
            pool,
            evictor,
            index,
            namespaces,
            tree,
            leases,
            effects,
            counters,
            nanoTime);
    SsdWrites writes = lower.writes();
    vacating = new HostVacating(index, tree, pool, writes);
    copies.onNeed(entry -> {
      vacating.comesToBeNeeded(entry);
      lower.comesToBeNeeded(entry);
    });
    EndedJobs ended = new EndedJobs(config.maxEndedJobs(), effects);
    jobs = new JobTable(config.maxOpenJobs(), ended);
    LoadJobs loads = new LoadJobs(tree, pool, lower.promotions(), jobs, effects, counters);
    SaveAttempts saves =
        new SaveAttempts(tree, pool, evictor, jobs, ended, attempts, effects, counters);
    Losses losses = new Losses(tree, leases, jobs, loads, saves, counters);
    ssdReports = lower.reports(index, namespaces, tree, loads, losses, counters);
    if (!ssdSlots.equals(SlotAllocator.NONE)) {
      tree.onPublished(writes::published);
    }
    instances = new Instances(config, leases);
    lookups = new Lookups(tree, leases, lower, counters, nanoTime);
    calls =
        new JobCalls(
            config, jobs, ended, loads, saves, leases, writes, effects, counters, nanoTime);
  }

  /** What the SSD tier tells this core. */
  public SsdReports ssd() {
    return ssdReports;
  }

  /**
   * Opens a namespace, or finds it again: the same digest gives the same handle.
   *
   * @param digestHi upper half of the digest of everything that must agree for bytes to be shared
   * @param digestLo lower half
   * @param parts parts of a block: ranks that hold different bytes of it
   * @param partBytes size of each part in bytes; a slot is their sum
   * @return its handle, small and not negative
   * @throws IllegalArgumentException if the sizes make no sense, or differ from those that this
   *     digest was opened with
   * @throws IllegalStateException if too many namespaces are open
   */
  public int openNamespace(long digestHi, long digestLo, int parts, long[] partBytes) {
    return openNamespace(digestHi, digestLo, parts, partBytes, 0);
  }

  /**
   * As the other.
   *
   * @param generation where it begins if it is not known yet: what a tier that outlives this
   *     process has recorded for it
   */
  public int openNamespace(
      long digestHi, long digestLo, int parts, long[] partBytes, int generation) {
    return namespaces.open(digestHi, digestLo, parts, partBytes, generation).handle();
  }

  /** Says how many tokens a block of a namespace has, where that is known. */
  public void setBlockTokens(int namespace, int tokens) {
    namespaces.require(namespace).setBlockTokens(tokens);
  }

  /** Upper half of a namespace's digest. */
  public long digestHi(int namespace) {
    return namespaces.require(namespace).digestHi();
  }

  /** Lower half of a namespace's digest. */
  public long digestLo(int namespace) {
    return namespaces.require(namespace).digestLo();
  }

  /** The present generation of a namespace. */
  public int generation(int namespace) {
    return namespaces.require(namespace).generation();
  }

  /**
   * Opens an instance in a namespace; does nothing if it is open there already.
   *
   * @throws IllegalArgumentException if the namespace is unknown, or the instance is open in
   *     another
   * @throws IllegalStateException if too many instances are open
   */
  public void openInstance(int instanceId, int namespace) {
    instances.open(instanceId, namespaces.require(namespace));
  }

  /**
   * Ends an instance: its chains and leases go, its jobs end as VOID. Parts that run end when they
   * are reported, and keep their slots until then.
   */
  public void closeInstance(int instanceId) {
    if (instances.close(instanceId)) {
      calls.instanceGone(instanceId);
    }
  }

  /**
   * Appends block hashes to a request's chain, beginning it if there is none. What is known already
   * and given again must be equal.
   *
   * @param firstIndex place of the first hash in the chain, at most its present length
   * @param hashes whole hashes, joined
   * @param hashBytes length of one, 16 to 64 bytes; the last 16 count
   * @param count how many
   * @return false if there is a gap, a hash differs, or a limit is met: the request has no chain
   *     then (nor lease), and may begin again from 0
   */
  public boolean extendChain(
      int instanceId, long requestId, int firstIndex, byte[] hashes, int hashBytes, int count) {
    return extendChain(
        instanceId, requestId, firstIndex, MemorySegment.ofArray(hashes), 0, hashBytes, count);
  }

  /** As the other, with hashes that lie at {@code offset} bytes in a segment. */
  public boolean extendChain(
      int instanceId,
      long requestId,
      int firstIndex,
      MemorySegment hashes,
      long offset,
      int hashBytes,
      int count) {
    return instances.extendChain(
        instanceId, requestId, firstIndex, hashes, offset, hashBytes, count);
  }

  /**
   * How deep a request's chain can be served. If that is beyond what the engine has itself, takes
   * the request's lease on it, or extends and refreshes the one it has.
   *
   * @param groupId KV group
   * @param firstBlock blocks that the engine has itself
   * @param maxBlocks blocks beyond these that are of interest
   * @return the answer, valid until the next call; all 0 if the request has no chain
   */
  public LookupResult lookup(
      int instanceId, long requestId, int groupId, int firstBlock, int maxBlocks) {
    return lookups.lookup(instances.get(instanceId), requestId, groupId, firstBlock, maxBlocks);
  }

  /**
   * Plans a load of chain blocks [firstBlock, firstBlock + gpuBlocks.length). It pins them from now
   * until its last part has ended, and the request's lease becomes this pin. Without a lease (it
   * ran out) it is good as well if all blocks are still servable and no reset came in between.
   *
   * @param jobId unique in this life of the sidecar; a known one is ignored
   * @param gpuBlocks the engine's block ids; the core keeps the array
   * @param requiredParts ranks that load, each by its own {@link #go}; may differ from the
   *     namespace's parts where all ranks hold the same bytes
   * @return whether the load is (already) open; if not, every part's go is answered as failed
   */
  public boolean planLoad(
      int instanceId,
      long jobId,
      long requestId,
      int groupId,
      int firstBlock,
      int[] gpuBlocks,
      int requiredParts) {
    return calls.planLoad(
        instances.get(instanceId), jobId, requestId, groupId, firstBlock, gpuBlocks, requiredParts);
  }

  /**
   * Plans a save of chain blocks [firstBlock, firstBlock + gpuBlocks.length): of those that are
   * neither servable nor being saved, as many from the first on as find room. The block before the
   * first must be there (or on its way in). Slots are taken now, from the least recently used if
   * there is no free one.
   *
   * @param jobId unique in this life of the sidecar; a known one is ignored
   * @param gpuBlocks the engine's block ids
   * @param generations the engine's counter of each block, as the plan saw it
   */
  public void planSave(
      int instanceId,
      long jobId,
      long requestId,
      int groupId,
      int firstBlock,
      int[] gpuBlocks,
      long[] generations) {
    calls.planSave(
        instances.get(instanceId), jobId, requestId, groupId, firstBlock, gpuBlocks, generations);
  }

  /**
   * A rank says that its part of a job may start. If the plan is not there yet the go waits for it,
   * within the configured number and time; without a plan it is answered as VOID.
   *
   * @return false if this part was answered before, or cannot be: no answer comes for this go
   */
  public boolean go(long jobId, int part) {
    return calls.go(jobId, part);
  }

  /**
   * A rank takes its part of a load back. If the part runs, this does nothing: the mover stops, and
   * its report ends the part. Otherwise the part ends now, copies nothing, and is answered at once
   * (unless it was before).
   *
   * @return whether the part runs: its answer is still to come
   */
  public boolean revokeLoad(long jobId, int part) {
    return calls.revokeLoad(jobId, part);
  }

  /** A running part of a load has ended: no copy of it can touch memory any more. */
  public void loadPartDone(long jobId, int part, boolean ok) {
    calls.loadPartDone(jobId, part, ok);
  }

  /**
   * A running part of a save has ended: no copy of it can touch memory any more.
   *
   * @param blockOk for each block of {@link CacheEffects#startSave}, whether it was copied and the
   *     engine's counter was the planned one afterwards; what is missing at the end is not ok
   */
  public void savePartDone(long jobId, int part, boolean[] blockOk) {
    calls.savePartDone(jobId, part, blockOk);
  }

  /** A request is over: its chain and its leases go; its planned jobs live on. */
  public void endRequest(int instanceId, long requestId) {
    instances.endRequest(instanceId, requestId);
  }

  /**
   * Forgets all that a namespace has: nothing of it is served again. Slots that a running copy may
   * touch stay taken until it ends; open loads and saves end as failed.
   *
   * @return the namespace's new generation
   * @throws IllegalArgumentException if the namespace is unknown
   */
  public int resetNamespace(int namespace) {
    Namespace cleared = namespaces.require(namespace);
    cleared.raiseGeneration();
    leases.endWhere(lease -> lease.namespace == cleared);
    calls.blocksGo(cleared);
    tree.clear(cleared);
    effects.cleared(namespace, cleared.generation());
    return cleared.generation();
  }

  /**
   * A rank has gone: its parts without a go end now. Running ones end when they are reported, which
   * the caller does (as not ok) once they are drained.
   */
  public void abandonPart(int instanceId, int part) {
    calls.abandonPart(instanceId, part);
  }

  /**
   * Goes on with what takes more than a call: lookups of long chains on the SSD, freeing what a
   * smaller tier wants back, forgetting what a lost SSD directory held, and telling new eviction
   * policies what is there. Call it again and again while it says that it did something.
   *
   * @return how much it did
   */
  public int turn() {
    return vacating.step() + lower.turn() + ssdReports.turn() + learning.step();
  }

  /** Ends what has waited for too long. Call it about once a second. */
  public void tick() {
    long now = nanoTime.getAsLong();
    leases.expire(now, config.leaseNanos());
    calls.tick(now);
    evictor.workOff();
    vacating.again();
    lower.tick(now);
  }

  /**
   * The host tier has another size. If it is smaller, {@link #turn} frees what the allocator wants
   * back.
   */
  public void hostResized() {
    lower.hostResized(pool.capacityBytes());
    vacating.resized();
  }

  /**
   * The SSD tier has another size. If it is smaller, {@link #turn} frees what the allocator wants
   * back.
   */
  public void ssdResized() {
    lower.resized();
  }

  /**
   * Makes room in another way from now on, in every tier. Blocks keep their order of use as far as
   * the new policy knows one; hits are counted anew. Of many blocks {@link #turn} tells the new
   * policy; those that it has not been told of are not chosen meanwhile.
   */
  public void setEviction(EvictionSettings eviction) {
    namespaces.replacePolicies(eviction);
    learning.begin();
    evictor.use(eviction);
    lower.use(eviction);
  }

  /**
   * How fast engines compute, from now on: what the SSD would bring later than that is not read.
   *
   * @param tokensPerSecond 0 = as seen from their saves
   */
  public void setRecompute(long tokensPerSecond) {
    lower.setRecompute(tokensPerSecond);
  }

  /** What happened, and what is there. */
  public CacheStats stats() {
    return counters.snapshot(
        namespaces.size(),
        instances.size(),
        instances.chains(),
        instances.chainBlocks(),
        leases.size(),
        jobs.loads(),
        jobs.saves(),
        calls.parked(),
        tree.readyBlocks(),
        tree.pendingBlocks(),
        pool.quarantined() + lower.quarantinedSlots(),
        pool.capacityBytes(),
        pool.usedBytes(),
        lower.use());
  }

  /** For tests that look at the links. */
  BlockIndex index() {
    return index;
  }

  /** For tests that look at the links. */
  Namespaces namespaces() {
    return namespaces;
  }
}
