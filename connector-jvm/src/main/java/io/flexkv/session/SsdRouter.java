package io.flexkv.session;

import io.flexkv.cache.BlockIdentity;
import io.flexkv.cache.CacheCore;
import io.flexkv.cache.FoundBlocks;
import io.flexkv.cache.SlotAllocator;
import io.flexkv.cache.SsdReports;
import io.flexkv.cache.SsdTransfer;
import io.flexkv.events.EventHub;
import io.flexkv.tier.ssd.RecoverySink;
import io.flexkv.tier.ssd.SlotHeader;
import io.flexkv.tier.ssd.SlotIdentity;
import io.flexkv.tier.ssd.SsdEvent;
import io.flexkv.tier.ssd.SsdJob;
import io.flexkv.tier.ssd.SsdStore;
import io.flexkv.tier.ssd.SurvivorBatch;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Between the cache core and the SSD store: what the core wants read and written becomes jobs of
 * the store, what became of them goes back, survivors of the last life are offered to the core, and
 * a reset is answered when it is durable. Without a store everything here is a no-op.
 *
 * <p>Cache thread only, except where a method says otherwise.
 */
final class SsdRouter implements SlotAllocator {
  /** Survivors that are taken in one turn: some 20 us. */
  private static final int SURVIVORS_A_TURN = 64;

  private static final int EVENTS_A_TURN = 256;
  private static final long READ_NANOS = 5_000_000_000L;
  private static final byte[] NO_EVENT = new byte[0];
  private static final Logger LOG = LoggerFactory.getLogger(SsdRouter.class);

  private record Digest(long hi, long lo) {}

  /** Somebody who waits for a reset of this namespace to this generation, or a later one. */
  private record Waiting(Digest namespace, int generation, Answer answer) {}

  /** Survivors, and what the store's thread has made ready of them. */
  private record Offer(SurvivorBatch batch, FoundBlocks blocks) {}

  /** Told once, to which generation a namespace was reset and whether that survives a restart. */
  @FunctionalInterface
  interface Answer {
    void reset(int generation, boolean durable);
  }

  private final @Nullable SsdStore store;
  private final long maxBlocks;
  private final HostSlots host;
  private final EventHub events;
  private final long bootEpoch;
  private final LongSupplier nanoTime;
  private final Map<Digest, Integer> blockTokens = new HashMap<>();
  private final Map<Digest, Integer> handles = new HashMap<>();
  private final ArrayDeque<Waiting> resets = new ArrayDeque<>();

  /** Directories out of which nothing is adopted any more: the core was told that all is gone. */
  private final BitSet lostDirectories = new BitSet();

  /** Directories of which the core still forgets what lay in them. */
  private final BitSet forgetting = new BitSet();

  /** From the store's thread, which has a few of them only. */
  private final Queue<Offer> survivors = new ConcurrentLinkedQueue<>();

  /** The next one of the first of these. */
  private int nextSurvivor;

  private long blocks;
  private @Nullable CacheCore core;

  /**
   * @param use null: there is no SSD tier
   */
  SsdRouter(
      @Nullable SsdUse use,
      HostSlots host,
      EventHub events,
      long bootEpoch,
      LongSupplier nanoTime) {
    this.store = use == null ? null : use.store();
    this.maxBlocks = use == null || use.maxBlocks() == 0 ? Long.MAX_VALUE : use.maxBlocks();
    this.host = host;
    this.events = events;
    this.bootEpoch = bootEpoch;
    this.nanoTime = nanoTime;
  }

  /** Once, before anything else: the core needs its slots and effects first. */
  void bind(CacheCore theCore) {
    core = theCore;
  }

  boolean present() {
    return store != null;
  }

  /** What is to be said of an engine with blocks of this size; mostly nothing. */
  String objection(long blockBytes) {
    return store == null ? "" : SsdFit.objection(blockBytes, store.directories());
  }

  @Nullable SsdStore store() {
    return store;
  }

  // ------------------------------------------------------------------ slots

  @Override
  public long allocate(long slotBytes) {
    if (store == null || blocks >= maxBlocks) {
      return FULL;
    }
    long slot = store.allocate(slotBytes);
    if (slot == SsdStore.FULL) {
      return FULL;
    }
    blocks++;
    return slot;
  }

  @Override
  public void free(long slot) {
    there().free(slot);
    blocks--;
  }

  @Override
  public boolean serves() {
    return store != null
        && store.directories().stream()
            .anyMatch(directory -> directory.state() == SsdStore.State.SERVING);
  }

  /** See {@link SsdStore#resize}. */
  void resize(long bytes) {
    there().resize(bytes);
  }

  @Override
  public boolean shrinks() {
    return store != null && store.shrinks();
  }

  @Override
  public boolean leaves(long slot) {
    return there().leaves(slot);
  }

  @Override
  public long capacityBytes() {
    return store == null ? 0 : store.capacityBytes();
  }

  @Override
  public long usedBytes() {
    return store == null ? 0 : store.usedBytes();
  }

  // ------------------------------------------------------------------ namespaces

  /** The generation at which a namespace begins that the core does not know. */
  int recordedGeneration(long digestHi, long digestLo) {
    return store == null ? 0 : store.generation(digestHi, digestLo);
  }

  /** An engine says its namespace's handle in the core, and how many tokens a block has. */
  void opened(int namespace, long digestHi, long digestLo, int tokens) {
    Digest digest = new Digest(digestHi, digestLo);
    core().setBlockTokens(namespace, tokens);
    blockTokens.put(digest, tokens);
    handles.put(digest, namespace);
  }

  /** A namespace was reset: makes that survive a restart, then answers. */
  void reset(long digestHi, long digestLo, int generation, Answer answer) {
    if (store == null) {
      answer.reset(generation, true);
      return;
    }
    resets.add(new Waiting(new Digest(digestHi, digestLo), generation, answer));
    store.resetNamespace(digestHi, digestLo, generation);
  }

  // ------------------------------------------------------------------ what the core wants

  void startRead(SsdTransfer read, boolean live) {
    List<SlotIdentity> identities = read.blocks().stream().map(SsdRouter::identity).toList();
    SsdJob job =
        SsdJob.read(
            read.id(),
            live ? SsdJob.Priority.READ_LIVE : SsdJob.Priority.READ_SPECULATIVE,
            read.ssdSlots(),
            addresses(read),
            identities,
            nanoTime.getAsLong() + READ_NANOS);
    if (!there().submit(job)) {
      core().ssd().readEnded(read.id(), 0, FULL, true);
    }
  }

  void startWrite(SsdTransfer write) {
    List<SlotHeader> headers = new ArrayList<>(write.blocks().size());
    for (BlockIdentity block : write.blocks()) {
      headers.add(
          new SlotHeader(
              identity(block),
              block.hasParent(),
              block.parentHi(),
              block.parentLo(),
              blockTokens.getOrDefault(new Digest(block.digestHi(), block.digestLo()), 1),
              bootEpoch,
              eventData(block)));
    }
    if (!there().submit(SsdJob.write(write.id(), write.ssdSlots(), addresses(write), headers))) {
      core().ssd().written(write.id(), new boolean[0], true);
    }
  }

  private byte[] eventData(BlockIdentity block) {
    int namespace = handles.getOrDefault(new Digest(block.digestHi(), block.digestLo()), -1);
    return events.eventData(namespace, block.group(), block.hashLo(), SlotHeader.MAX_EVENT_BYTES);
  }

  void cancel(long transferId) {
    there().cancel(transferId);
  }

  private long[] addresses(SsdTransfer transfer) {
    long[] addresses = new long[transfer.hostSlots().length];
    for (int i = 0; i < addresses.length; i++) {
      addresses[i] = host.address(transfer.hostSlots()[i]);
    }
    return addresses;
  }

  private static SlotIdentity identity(BlockIdentity block) {
    // The namespace's digest covers the layout of every rank; a store wants it by itself too.
    return new SlotIdentity(
        block.digestHi(),
        block.digestLo(),
        block.generation(),
        block.group(),
        block.hashHi(),
        block.hashLo(),
        block.digestLo(),
        block.slotBytes());
  }

  // ------------------------------------------------------------------ what became of it

  /** Takes the store's news, and some of the blocks that survived; returns how many. */
  int poll() {
    if (store == null) {
      return 0;
    }
    int count = 0;
    for (SsdEvent event; count < EVENTS_A_TURN && (event = store.poll()) != null; count++) {
      take(event);
    }
    if (!forgetting.isEmpty() && !core().ssd().forgets()) {
      forgetting.stream().forEach(there()::forgotten);
      forgetting.clear();
    }
    return count + adopt();
  }

  private void take(SsdEvent event) {
    switch (event) {
      case SsdEvent.Progress progress ->
          core().ssd().readProgress(progress.job().id(), progress.ready());
      case SsdEvent.Ended ended -> ended(ended);
      case SsdEvent.Drained drained -> core().ssd().drained(drained.job().id());
      case SsdEvent.ResetDone done -> resetDone(done);
      case SsdEvent.DirectoryLost lost -> {
        LOG.error(
            "SSD directory {} is taken out: {}. The other tiers go on; what lay in it is gone",
            lost.path(),
            lost.cause());
        lostDirectories.set(lost.directory());
        forgetting.set(lost.directory());
        core().ssd().lost(slot -> there().directoryOf(slot) == lost.directory());
      }
    }
  }

  private void ended(SsdEvent.Ended ended) {
    SsdJob job = ended.job();
    if (ended.outcome() == SsdEvent.Outcome.FAILED) {
      LOG.warn(
          "{} {} of {} blocks ended after {}: {}",
          job.isWrite() ? "SSD write" : "SSD read",
          job.id(),
          job.blocks(),
          ended.ready(),
          ended.cause());
    }
    if (job.isWrite()) {
      BitSet stored = job.stored();
      boolean[] ok = new boolean[job.blocks()];
      stored.stream().forEach(i -> ok[i] = true);
      core().ssd().written(job.id(), ok, ended.drained());
    } else {
      core().ssd().readEnded(job.id(), ended.ready(), ended.badSlot(), ended.drained());
    }
  }

  private void resetDone(SsdEvent.ResetDone done) {
    if (!done.durable()) {
      LOG.error(
          "a reset to generation {} did not reach any SSD directory ({}): it is not confirmed, and"
              + " whoever asked for it is served nothing",
          done.generation(),
          done.cause());
    }
    Digest namespace = new Digest(done.digestHi(), done.digestLo());
    for (Iterator<Waiting> all = resets.iterator(); all.hasNext(); ) {
      Waiting waiting = all.next();
      if (waiting.namespace.equals(namespace) && waiting.generation <= done.generation()) {
        all.remove();
        waiting.answer.reset(waiting.generation, done.durable());
      }
    }
  }

  // ------------------------------------------------------------------ recovery

  /** Lets the store offer what survived; {@link #poll} takes it. */
  void recover(AgentInbox inbox) {
    if (store != null) {
      store.recover(new Sink(inbox, core().ssd()));
    }
  }

  /**
   * Its methods run on the store's thread, and do there what need not be done by the cache thread.
   * A batch and what was made of it are the store's thread's until they are in the queue, then the
   * cache thread's until that has answered.
   */
  private final class Sink implements RecoverySink {
    private final AgentInbox inbox;
    private final SsdReports reports;

    /** By batch: it comes again when it has been answered, and then this is free too. */
    private final Map<SurvivorBatch, FoundBlocks> ready = new HashMap<>();

    Sink(AgentInbox inbox, SsdReports reports) {
      this.inbox = inbox;
      this.reports = reports;
    }

    @Override
    public void offer(SurvivorBatch batch) {
      FoundBlocks found =
          ready.computeIfAbsent(batch, b -> new FoundBlocks(SurvivorBatch.CAPACITY));
      found.clear();
      for (int i = 0; i < batch.size(); i++) {
        found.add(identity(batch, i));
      }
      reports.reserve();
      survivors.add(new Offer(batch, found));
      inbox.signal();
    }

    @Override
    public void finished(Report report) {
      LOG.info(
          "SSD: {} of {} blocks found are served again, {} were left behind; {} ms",
          report.taken(),
          report.offered(),
          report.dropped(),
          report.nanos() / 1_000_000);
    }

    private static BlockIdentity identity(SurvivorBatch batch, int i) {
      return new BlockIdentity(
          batch.digestHi(i),
          batch.digestLo(i),
          batch.generation(i),
          batch.group(i),
          batch.keyHi(i),
          batch.keyLo(i),
          batch.hasParent(i),
          batch.parentHi(i),
          batch.parentLo(i),
          batch.payloadBytes(i));
    }
  }

  /** Takes a few survivors; returns how many. */
  private int adopt() {
    Offer offer = survivors.peek();
    if (offer == null) {
      return 0;
    }
    SurvivorBatch batch = offer.batch();
    int first = nextSurvivor;
    int until = Math.min(batch.size(), first + SURVIVORS_A_TURN);
    core().ssd().approach(offer.blocks(), first, until);
    for (int i = first; i < until; i++) {
      batch.answer(i, adopt(offer, i));
    }
    events.offered(1, NO_EVENT);
    nextSurvivor = until;
    if (until == batch.size()) {
      nextSurvivor = 0;
      survivors.remove();
      batch.answered();
    }
    return until - first;
  }

  private SurvivorBatch.Answer adopt(Offer offer, int i) {
    SurvivorBatch batch = offer.batch();
    if (lostDirectories.get(there().directoryOf(batch.slot(i)))) {
      return SurvivorBatch.Answer.REFUSED;
    }
    events.offered(batch.blockTokens(i), batch.eventData(i));
    return switch (core().ssd().adopt(offer.blocks(), i, batch.slot(i), blocks >= maxBlocks)) {
      case TAKEN -> {
        blocks++;
        yield SurvivorBatch.Answer.TAKEN;
      }
      case REFUSED -> SurvivorBatch.Answer.REFUSED;
      case NO_PARENT -> SurvivorBatch.Answer.NO_PARENT;
    };
  }

  private SsdStore there() {
    if (store == null) {
      throw new IllegalStateException("there is no SSD tier");
    }
    return store;
  }

  private CacheCore core() {
    if (core == null) {
      throw new IllegalStateException("bind() was not called");
    }
    return core;
  }
}
