package io.flexkv.session;

import io.flexkv.cache.CacheCore;
import io.flexkv.cache.LookupResult;
import io.flexkv.events.EventHub;
import io.flexkv.protocol.EchoRecord;
import io.flexkv.protocol.EndRequestRecord;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.NoticesTakenRecord;
import io.flexkv.protocol.PlanLoadRecord;
import io.flexkv.protocol.PlanSaveRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.RecordDescriptor;
import io.flexkv.protocol.ResetRecord;
import io.flexkv.protocol.RevokeRecord;
import java.lang.foreign.MemorySegment;

/**
 * What each record means: checks it against the session's role and the instance's state, and calls
 * the cache core. Cache thread only; {@code Extend} and {@code Lookup} allocate nothing.
 */
final class RecordHandler {
  private final CacheCore core;
  private final JobRouter jobs;
  private final SsdRouter ssd;
  private final EventHub events;
  private final Outbox outbox;
  private final ExtendRecord extend = new ExtendRecord();
  private final LookupRecord lookup = new LookupRecord();
  private final PlanLoadRecord planLoad = new PlanLoadRecord();
  private final PlanSaveRecord planSave = new PlanSaveRecord();
  private final EndRequestRecord endRequest = new EndRequestRecord();
  private final ResetRecord reset = new ResetRecord();
  private final NoticesTakenRecord taken = new NoticesTakenRecord();
  private final EchoRecord echo = EchoRecord.question();
  private final GoRecord go = new GoRecord();
  private boolean plannedLoad;
  private final RevokeRecord revoke = new RevokeRecord();

  RecordHandler(CacheCore core, JobRouter jobs, SsdRouter ssd, EventHub events, Outbox outbox) {
    this.core = core;
    this.jobs = jobs;
    this.ssd = ssd;
    this.events = events;
    this.outbox = outbox;
  }

  /**
   * Handles one record.
   *
   * @param record the record's bytes from its start, copied out of the ring
   * @throws ProtocolException if no correct client sends it: the session must end
   */
  void handle(Session session, MemorySegment record, int length) throws ProtocolException {
    int type = RecordDescriptor.type(record);
    if (type == RecordDescriptor.TYPE_ECHO) {
      echo.wrap(record, length);
      outbox.echo(session, echo);
      return;
    }
    Instance instance = session.instance;
    if (instance == null) {
      throw new ProtocolException("record type " + type + " from a tool");
    }
    switch (type) {
      case RecordDescriptor.TYPE_EXTEND -> {
        scheduler(session, type);
        extend.wrap(record, length);
        onExtend(session, instance);
      }
      case RecordDescriptor.TYPE_LOOKUP -> {
        scheduler(session, type);
        lookup.wrap(record, length);
        onLookup(session, instance);
      }
      case RecordDescriptor.TYPE_PLAN_LOAD -> {
        scheduler(session, type);
        planLoad.wrap(record, length);
        onPlanLoad(session, instance);
      }
      case RecordDescriptor.TYPE_PLAN_SAVE -> {
        scheduler(session, type);
        planSave.wrap(record, length);
        onPlanSave(session, instance);
      }
      case RecordDescriptor.TYPE_END_REQUEST -> {
        scheduler(session, type);
        endRequest.wrap(record, length);
        core.endRequest(instance.id, endRequest.requestId());
        jobs.run();
      }
      case RecordDescriptor.TYPE_RESET -> {
        scheduler(session, type);
        reset.wrap(record, length);
        onReset(session, instance);
      }
      case RecordDescriptor.TYPE_NOTICES_TAKEN -> {
        scheduler(session, type);
        taken.wrap(record, length);
        events.taken(session.id, taken.taken(), (taken.flags() & Protocol.NOTICES_ANEW) != 0);
      }
      case RecordDescriptor.TYPE_GO -> {
        go.wrap(record, length);
        if (session.hello.isScheduler()) {
          jobs.goAll(session, instance, go);
        } else {
          jobs.go(session, go);
        }
      }
      case RecordDescriptor.TYPE_REVOKE -> {
        revoke.wrap(record, length);
        if (session.hello.isScheduler()) {
          jobs.revokeAll(session, instance, revoke.jobId());
        } else {
          jobs.revoke(session, revoke.jobId());
        }
      }
      default -> throw new ProtocolException("record type " + type + " is none of a client's");
    }
  }

  /** Whether a load was planned since the last question: its {@code Go} is on its way. */
  boolean takePlannedLoad() {
    boolean planned = plannedLoad;
    plannedLoad = false;
    return planned;
  }

  private static void scheduler(Session session, int type) throws ProtocolException {
    if (!session.hello.isScheduler()) {
      throw new ProtocolException("record type " + type + " comes from schedulers only");
    }
  }

  private static int index(String what, long value) throws ProtocolException {
    if (value > Integer.MAX_VALUE) {
      throw new ProtocolException("%s=%d, at most %d".formatted(what, value, Integer.MAX_VALUE));
    }
    return (int) value;
  }

  private void onExtend(Session session, Instance instance) throws ProtocolException {
    // Not open in the core: it keeps nothing, and the lookup behind it says so.
    core.extendChain(
        instance.id,
        extend.requestId(),
        index("first index", extend.firstIndex()),
        extend.segment(),
        extend.hashesOffset(),
        extend.hashBytes(),
        extend.count());
    if (extend.tokensCount() > 0 && session.hello.events() && instance.namespace >= 0) {
      events.learn(instance.namespace, 0, session.hello.blockTokens(), extend);
    }
  }

  private void onLookup(Session session, Instance instance) throws ProtocolException {
    int first = index("first block", lookup.firstBlock());
    long chain = lookup.chainBlocks();
    int most = (int) Math.min(lookup.maxBlocks(), Integer.MAX_VALUE);
    if (!instance.ready) {
      nothing(session, 0, Protocol.LOOKUP_NOT_READY);
      return;
    }
    LookupResult found = core.lookup(instance.id, lookup.requestId(), lookup.group(), first, most);
    jobs.run(); // it may have begun to bring blocks from the SSD
    if (found.chainBlocks() < chain) {
      nothing(session, found.generation(), Protocol.LOOKUP_UNKNOWN);
      return;
    }
    outbox.lookupAnswer(
        session,
        lookup.queryId(),
        lookup.requestId(),
        found.leaseId(),
        found.generation(),
        found.servableBlocks(),
        found.residentBlocks(),
        found.hostBlocks(),
        found.ssdBlocks(),
        found.pending() ? Protocol.LOOKUP_PENDING : Protocol.LOOKUP_OK,
        lookup.group());
  }

  private void nothing(Session session, int generation, int status) {
    outbox.lookupAnswer(
        session,
        lookup.queryId(),
        lookup.requestId(),
        0,
        generation,
        0,
        0,
        0,
        0,
        status,
        lookup.group());
  }

  private void onPlanLoad(Session session, Instance instance) throws ProtocolException {
    long jobId = planLoad.jobId();
    JobRouter.checkOwner(session, jobId);
    int first = index("first block", planLoad.firstBlock());
    // A plan made for another generation would deliver what a reset has taken back.
    if (!instance.ready || planLoad.generation() != core.generation(instance.namespace)) {
      jobs.refusePlan(instance, jobId, Protocol.STATUS_FAILED);
      return;
    }
    int[] blocks = new int[planLoad.count()];
    for (int i = 0; i < blocks.length; i++) {
      blocks[i] = planLoad.blockId(i);
    }
    core.planLoad(
        instance.id,
        jobId,
        planLoad.requestId(),
        planLoad.group(),
        first,
        blocks,
        instance.worldSize());
    jobs.run();
    plannedLoad = true;
    for (int rank = 0; rank < instance.worldSize(); rank++) {
      Registration registration = instance.ranks[rank];
      if (registration != null) {
        registration.mover.expectLoad();
      }
    }
  }

  private void onPlanSave(Session session, Instance instance) throws ProtocolException {
    long jobId = planSave.jobId();
    JobRouter.checkOwner(session, jobId);
    int first = index("first block", planSave.firstBlock());
    int count = planSave.count();
    if (!instance.ready) {
      jobs.refusePlan(instance, jobId, Protocol.STATUS_FAILED);
      outbox.saveDone(session, jobId, 0, 0, count, Protocol.STATUS_FAILED);
      return;
    }
    int[] blocks = new int[count];
    long[] generations = new long[count];
    for (int i = 0; i < count; i++) {
      blocks[i] = planSave.blockId(i);
      generations[i] = planSave.generation(i);
    }
    core.planSave(
        instance.id, jobId, planSave.requestId(), planSave.group(), first, blocks, generations);
    jobs.run();
  }

  /** Answered once nothing of before can be served again, be it after a restart. */
  private void onReset(Session session, Instance instance) {
    long queryId = reset.queryId();
    SsdRouter.Answer answer =
        (generation, durable) ->
            outbox.resetAnswer(
                session,
                queryId,
                generation,
                durable ? Protocol.STATUS_OK : Protocol.STATUS_FAILED);
    if (instance.ready) {
      reset(instance.namespace, answer);
      return;
    }
    if (instance.namespace >= 0) {
      reset(instance.namespace, (generation, durable) -> {});
    }
    // It may come back with another layout, and so with another namespace, than it was ready with.
    instance.resetPending = true;
    if (!ssd.present()) {
      answer.reset(0, true);
    } else if (!instance.resetWaits(answer)) {
      answer.reset(0, false);
    }
  }

  private void reset(int namespace, SsdRouter.Answer answer) {
    int generation = core.resetNamespace(namespace);
    jobs.run();
    ssd.reset(core.digestHi(namespace), core.digestLo(namespace), generation, answer);
  }
}
