package io.flexkv.session;

import io.flexkv.cache.AvailableBlocks;
import io.flexkv.cache.CacheCore;
import io.flexkv.cache.CacheEffects;
import io.flexkv.cache.JobStatus;
import io.flexkv.cache.SsdTransfer;
import io.flexkv.cache.Tier;
import io.flexkv.device.Direction;
import io.flexkv.events.EventHub;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.transfer.Completion;
import io.flexkv.transfer.TransferJob;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/**
 * Between the cache core, the movers and the workers: what the core wants copied becomes a job of a
 * rank's mover, what became of it goes back to the core, and every {@code Go} gets its {@code
 * JobDone}, once a rank. Cache thread only.
 *
 * <p>That of a load goes to the scheduler as well, behind the worker's and only if that one lies in
 * the worker's ring: a scheduler that tells its engine of a load's end must be able to rely on
 * every rank finding the same word, be this process dead by then.
 *
 * <p>The core must not be called from inside its effects, so they are queued and carried out by
 * {@link #run} after each call.
 */
final class JobRouter implements CacheEffects {
  /** Parts that one session may have open. */
  static final int MAX_PARTS = 65_536;

  private static final Logger LOG = LoggerFactory.getLogger(JobRouter.class);

  private final Directory directory;
  private final Outbox outbox;
  private final HostSlots slots;
  private final SsdRouter ssd;
  private final EventHub events;
  private final LongSupplier nanoTime;
  private final ArrayDeque<Runnable> effects = new ArrayDeque<>();
  private final Map<PartJob.Key, PartJob> parts = new HashMap<>();
  private final EndedParts ended = new EndedParts(MAX_PARTS);
  private @Nullable CacheCore core;

  JobRouter(
      Directory directory,
      Outbox outbox,
      HostSlots slots,
      SsdRouter ssd,
      EventHub events,
      LongSupplier nanoTime) {
    this.directory = directory;
    this.outbox = outbox;
    this.slots = slots;
    this.ssd = ssd;
    this.events = events;
    this.nanoTime = nanoTime;
  }

  /** Once, before anything else: the core needs its effects first. */
  void bind(CacheCore theCore) {
    core = theCore;
  }

  private CacheCore core() {
    if (core == null) {
      throw new IllegalStateException("bind() was not called");
    }
    return core;
  }

  /** Carries out what the core wanted; returns how much it was. */
  int run() {
    int count = 0;
    for (Runnable effect; (effect = effects.poll()) != null; count++) {
      effect.run();
    }
    return count;
  }

  int openParts() {
    return parts.size();
  }

  /** Whether a job of this worker has not been answered. */
  boolean hasParts(Session worker) {
    for (PartJob part : parts.values()) {
      if (part.session == worker) {
        return true;
      }
    }
    return false;
  }

  // ------------------------------------------------------------------ from the worker

  void go(Session worker, GoRecord go) {
    PartJob.Key key = new PartJob.Key(go.jobId(), worker.hello.rank());
    Integer status = ended.take(key);
    if (status != null) {
      answer(worker, go.jobId(), go.kind(), status);
      return;
    }
    Instance instance = worker.instance;
    PartJob known = parts.get(key);
    if (known != null && known.started && isOf(known, instance)) {
      goAgain(worker, go, known); // whoever planned it: its copy may run still
      return;
    }
    Session scheduler = instance == null ? null : instance.scheduler;
    if (instance == null
        || scheduler == null
        || scheduler.id != Protocol.sessionOfJob(go.jobId())) {
      answer(worker, go.jobId(), go.kind(), Protocol.STATUS_VOID);
      return;
    }
    if (go.kind() == Protocol.KIND_SAVE && !instance.saves(key.part())) {
      answer(worker, go.jobId(), go.kind(), Protocol.STATUS_OK);
      return;
    }
    if (known != null) {
      goAgain(worker, go, known);
      return;
    }
    if (parts.size() >= MAX_PARTS) {
      LOG.warn("{}: {} parts are open, at most {}", worker.label(), parts.size(), MAX_PARTS);
      answer(worker, go.jobId(), go.kind(), Protocol.STATUS_FAILED);
      return;
    }
    begin(key, new PartJob(worker, worker, go, nanoTime.getAsLong()));
    run();
  }

  /** A go of a session that was ended: no copy begins for it. */
  void goAfterEnd(Session worker, GoRecord go) throws ProtocolException {
    PartJob.Key key = new PartJob.Key(go.jobId(), worker.hello.rank());
    if (!parts.containsKey(key)) { // else it came before as well, and its copy may run
      Integer status = ended.take(key);
      int said = status == null ? Protocol.STATUS_FAILED : status;
      outbox.jobDoneAfterEnd(worker, go.jobId(), go.kind(), said);
    }
  }

  /** Hands a part to the core; one that was answered before is answered again, and not kept. */
  private void begin(PartJob.Key key, PartJob part) {
    parts.put(key, part);
    if (!core().go(key.jobId(), key.part())) {
      parts.remove(key);
      answer(part.starter, key.jobId(), part.kind, Protocol.STATUS_VOID);
    }
  }

  /**
   * A scheduler says "go" for all of its ranks, whose bytes are in place: for engines whose ranks
   * only lend their memory. Each rank's {@code JobDone} goes to the scheduler.
   */
  void goAll(Session scheduler, Instance instance, GoRecord go) throws ProtocolException {
    checkOwner(scheduler, go.jobId());
    if (go.fenceKind() != Protocol.FENCE_NONE) {
      throw new ProtocolException("a go for all ranks has a fence, which is one rank's own");
    }
    for (int rank = 0; rank < instance.worldSize(); rank++) {
      PartJob.Key key = new PartJob.Key(go.jobId(), rank);
      Session worker = instance.workers[rank];
      Integer status = ended.take(key);
      if (status != null) {
        answer(scheduler, go.jobId(), go.kind(), status);
      } else if (go.kind() == Protocol.KIND_SAVE && !instance.saves(rank)) {
        answer(scheduler, go.jobId(), go.kind(), Protocol.STATUS_OK);
      } else if (worker == null || parts.size() >= MAX_PARTS) {
        answer(scheduler, go.jobId(), go.kind(), Protocol.STATUS_FAILED);
      } else if (!parts.containsKey(key)) {
        begin(key, new PartJob(worker, scheduler, go, nanoTime.getAsLong()));
      }
    }
    run();
  }

  /**
   * A scheduler takes a load back on every rank where it has not ended. If the load was begun by a
   * session of this instance that this one follows, it is answered for every rank, once: where no
   * copy of it can run any more at once.
   */
  void revokeAll(Session scheduler, Instance instance, long jobId) throws ProtocolException {
    Session owner = directory.session(Protocol.sessionOfJob(jobId));
    // The new session may be known here before the end of the one that it follows.
    boolean handedOver = owner == null || (owner != scheduler && owner.instance == instance);
    if (!handedOver) {
      checkOwner(scheduler, jobId);
    }
    for (int rank = 0; rank < instance.worldSize(); rank++) {
      PartJob part = parts.get(new PartJob.Key(jobId, rank));
      if (part == null && handedOver) {
        answer(scheduler, jobId, Protocol.KIND_LOAD, Protocol.STATUS_VOID);
      }
      if (part != null) {
        part.starter = handedOver && isOf(part, instance) ? scheduler : part.starter;
        if (part.starter == scheduler) {
          takeBack(part, jobId, rank);
        }
      }
    }
    run();
  }

  /** By name: an instance goes with its last session, and what it began may run still. */
  private static boolean isOf(PartJob part, @Nullable Instance instance) {
    Instance its = part.session.instance;
    return its != null && instance != null && its.name.equals(instance.name);
  }

  /** A rank that came back; anything else is a mistake of the worker, and changes nothing. */
  private void goAgain(Session worker, GoRecord go, PartJob known) {
    if (known.session == worker || known.starter != known.session) {
      LOG.debug("{}: job {} again", worker.label(), go.jobId());
    } else if (known.started) {
      // Its old session's copy was taken back and may run still: answered when it has ended.
      known.starter = worker;
    } else {
      known.rebind(worker, go, nanoTime.getAsLong());
    }
  }

  void revoke(Session worker, long jobId) {
    PartJob part = parts.get(new PartJob.Key(jobId, worker.hello.rank()));
    if (part != null && part.session != worker && isOf(part, worker.instance)) {
      // Begun by an earlier session of this rank. Its copy may run still, so no answer before its
      // end; and the answer is ours now.
      part.starter = part.starter == part.session ? worker : part.starter;
    } else if (part == null || part.session != worker) {
      // Not here (any more): no copy of it runs, which is all that the worker asks.
      answer(worker, jobId, Protocol.KIND_LOAD, Protocol.STATUS_VOID);
      return;
    }
    takeBack(part, jobId, worker.hello.rank());
    run();
  }

  private void takeBack(PartJob part, long jobId, int rank) {
    part.endedRevoked = true;
    if (core().revokeLoad(jobId, rank)) {
      revokeStarted(part, jobId);
    }
  }

  private static void revokeStarted(PartJob part, long jobId) {
    Instance instance = part.session.instance;
    Registration rank = instance == null ? null : instance.ranks[part.session.hello.rank()];
    // If the mover's list of such requests is full, the revoke word does it.
    if (rank != null
        && !rank.mover.revoke(jobId, part.isLoad() ? Direction.LOAD : Direction.SAVE)) {
      LOG.warn("{}: too many revokes at once", part.session.label());
    }
  }

  private void answer(Session starter, long jobId, int kind, int status) {
    outbox.jobDone(starter, jobId, 0, 0, 0, kind, status);
  }

  // ------------------------------------------------------------------ sessions that end

  /** A rank is gone: its copies are taken back, its parts without a copy end. */
  void workerEnded(Session worker) {
    for (Map.Entry<PartJob.Key, PartJob> entry : parts.entrySet()) {
      PartJob part = entry.getValue();
      if (part.session == worker) {
        if (part.started && part.isLoad()) {
          revokeStarted(part, entry.getKey().jobId());
        }
      }
    }
  }

  /** A scheduler is gone, its instance closed: gos that waited for its plans are answered now. */
  void schedulerEnded(Session scheduler) {
    ended.forgetSession(scheduler.id);
    List<PartJob.Key> waiting = new ArrayList<>();
    for (Map.Entry<PartJob.Key, PartJob> entry : parts.entrySet()) {
      PartJob part = entry.getValue();
      if (Protocol.sessionOfJob(entry.getKey().jobId()) != scheduler.id) {
        continue;
      }
      if (!part.started) {
        waiting.add(entry.getKey());
      } else if (part.starter == scheduler && part.isLoad()) {
        // Nobody else looks after the blocks it writes.
        revokeStarted(part, entry.getKey().jobId());
      }
    }
    for (PartJob.Key key : waiting) {
      core().revokeLoad(key.jobId(), key.part());
    }
    run();
  }

  /** A plan that the core never saw: its parts are over before they begin. */
  void refusePlan(Instance instance, long jobId, int status) {
    for (int rank = 0; rank < instance.worldSize(); rank++) {
      endPart(jobId, rank, status);
    }
  }

  // ------------------------------------------------------------------ effects of the core

  @Override
  public void startLoad(
      long jobId, int part, int[] gpuBlocks, long[] jobSlots, AvailableBlocks available) {
    effects.add(() -> start(jobId, part, gpuBlocks, jobSlots, null, available));
  }

  @Override
  public void startSave(
      long jobId, int part, int[] gpuBlocks, long[] jobSlots, long[] generations) {
    effects.add(() -> start(jobId, part, gpuBlocks, jobSlots, generations, AvailableBlocks.ALL));
  }

  @Override
  public void jobDone(long jobId, int part, JobStatus status) {
    effects.add(() ->
        endPart(
            jobId,
            part,
            switch (status) {
              case OK -> Protocol.STATUS_OK;
              case FAILED -> Protocol.STATUS_FAILED;
              case VOID -> Protocol.STATUS_VOID;
            }));
  }

  @Override
  public void saveDone(long jobId, int committed, int skipped, int dropped) {
    effects.add(() -> {
      Session scheduler = directory.session(Protocol.sessionOfJob(jobId));
      if (scheduler != null) {
        events.flush(scheduler.id); // it waits for no more notices of this save from here on
        outbox.saveDone(scheduler, jobId, committed, skipped, dropped, Protocol.STATUS_OK);
      }
    });
  }

  @Override
  public void startRead(SsdTransfer read, boolean live) {
    effects.add(() -> ssd.startRead(read, live));
  }

  @Override
  public void startWrite(SsdTransfer write) {
    effects.add(() -> ssd.startWrite(write));
  }

  @Override
  public void cancelTransfer(long transferId) {
    effects.add(() -> ssd.cancel(transferId));
  }

  @Override
  public void stored(
      Tier tier, int namespace, int group, long hash, long parentHash, boolean hasParent) {
    events.stored(namespace, wire(tier), group, hash);
  }

  @Override
  public void evicted(Tier tier, int namespace, int group, long hash) {
    events.evicted(namespace, wire(tier), group, hash);
  }

  @Override
  public void cleared(int namespace, int generation) {
    events.cleared(namespace);
  }

  private static int wire(Tier tier) {
    return switch (tier) {
      case HOST -> Protocol.TIER_HOST;
      case SSD -> Protocol.TIER_SSD;
    };
  }

  private void start(
      long jobId,
      int part,
      int[] gpuBlocks,
      long[] jobSlots,
      long @Nullable [] generations,
      AvailableBlocks available) {
    PartJob job = parts.get(new PartJob.Key(jobId, part));
    TransferJob transfer =
        job == null
            ? null
            : job.transfer(jobId, part, gpuBlocks, slots, jobSlots, generations, available);
    Instance instance = job == null ? null : job.session.instance;
    Registration rank = instance == null ? null : instance.ranks[part];
    if (job != null && transfer != null && rank != null && rank.mover.submit(transfer)) {
      job.started = true;
      job.namespace = instance == null ? -1 : instance.namespace;
      job.generation = generationOf(instance);
      return;
    }
    if (generations == null) {
      core().loadPartDone(jobId, part, false);
    } else {
      core().savePartDone(jobId, part, new boolean[gpuBlocks.length]);
    }
  }

  private int generationOf(@Nullable Instance instance) {
    return instance == null || instance.namespace < 0 ? -1 : core().generation(instance.namespace);
  }

  private void endPart(long jobId, int part, int status) {
    PartJob.Key key = new PartJob.Key(jobId, part);
    PartJob job = parts.remove(key);
    if (job == null) {
      ended.put(key, status);
      return;
    }
    if (job.starter.ended) {
      return;
    }
    int micros = (int) Math.min((nanoTime.getAsLong() - job.arrivedNanos) / 1000, 0xFFFF_FFFFL);
    int said =
        status == Protocol.STATUS_FAILED && job.endedRevoked ? Protocol.STATUS_REVOKED : status;
    long bytes = job.bytesMoved;
    boolean known = outbox.jobDone(job.starter, jobId, bytes, job.blocksOk, micros, job.kind, said);
    Session scheduler = directory.session(Protocol.sessionOfJob(jobId));
    if (known && job.isLoad() && scheduler != null && scheduler != job.starter) {
      outbox.jobDone(scheduler, jobId, bytes, job.blocksOk, micros, job.kind, said);
    }
  }

  // ------------------------------------------------------------------ from the movers

  /** The first copy of a session that failed is for the operator, the others would flood. */
  private static void tell(Completion done, @Nullable Session session) {
    Level level = Level.DEBUG;
    if (session != null
        && done.status() == Completion.Status.FAILED
        && !session.ended
        && !session.failureSaid) {
      session.failureSaid = true;
      level = Level.WARN;
    }
    LOG.atLevel(level)
        .log("job {} part {}: {} {}", done.jobId(), done.part(), done.status(), done.cause());
  }

  /** A mover has ended a part. */
  void completed(Completion done) {
    PartJob job = parts.get(new PartJob.Key(done.jobId(), done.part()));
    if (!done.drained()) {
      LOG.error(
          "job {} part {}: {}; its slots and blocks stay taken until it has",
          done.jobId(),
          done.part(),
          done.cause());
      return;
    }
    if (done.status() != Completion.Status.OK) {
      tell(done, job == null ? null : job.session);
    }
    if (job != null) {
      job.bytesMoved = done.bytes();
      // Bytes from before a reset, be it another instance's, are not to be used.
      Instance instance = job.session.instance;
      boolean current =
          instance != null
              && job.namespace == instance.namespace
              && job.generation == generationOf(instance);
      job.blocksOk = current ? done.blocksOk().nextClearBit(0) : 0;
      job.endedRevoked |= done.status() == Completion.Status.REVOKED;
    }
    if (done.direction() == Direction.LOAD) {
      core().loadPartDone(done.jobId(), done.part(), done.status() == Completion.Status.OK);
    } else {
      core().savePartDone(done.jobId(), done.part(), saved(done, job));
    }
    run();
  }

  /**
   * Which blocks of a save count: none of a rank that is gone. It may have been killed half way
   * through the forward that fills them, and what its device says of a dead owner's events nobody
   * promises. Were it to say "complete" before the kernel closes that rank's socket, the blocks
   * would count; on a GPU it said nothing of the kind (tests/gpu/dead_forward.py).
   */
  private static boolean[] saved(Completion done, @Nullable PartJob job) {
    if (job == null || job.session.ended) {
      return new boolean[0];
    }
    boolean[] ok = new boolean[done.blocksOk().length()];
    done.blocksOk().stream().forEach(i -> ok[i] = true);
    return ok;
  }

  /** Checks that a plan comes from the session that the job's id names. */
  static void checkOwner(Session scheduler, long jobId) throws ProtocolException {
    if (Protocol.sessionOfJob(jobId) != scheduler.id || jobId <= 0) {
      throw new ProtocolException(
          "job %d belongs to session %d, this is %d"
              .formatted(jobId, Protocol.sessionOfJob(jobId), scheduler.id));
    }
  }
}
