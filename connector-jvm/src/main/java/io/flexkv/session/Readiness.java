package io.flexkv.session;

import io.flexkv.cache.CacheCore;
import io.flexkv.events.EventHub;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Makes instances ready and not ready as their sessions come and go, and opens and closes them in
 * the cache core. Cache thread only.
 */
final class Readiness {
  private static final Logger LOG = LoggerFactory.getLogger(Readiness.class);
  private static final int MAX_LOST_GPUS = 64;

  private final CacheCore core;
  private final JobRouter jobs;
  private final SsdRouter ssd;
  private final EventHub events;
  private final Outbox outbox;
  private Consumer<String> endOfProcess = reason -> {};

  /** A worker whose rank was taken out, and when its session ends at the latest. */
  private record FailedWorker(Session session, String reason, long untilNanos) {}

  private final List<FailedWorker> failed = new ArrayList<>();

  /** Those that the operator was told of. */
  private final Set<String> lostGpus = new HashSet<>();

  Readiness(CacheCore core, JobRouter jobs, SsdRouter ssd, EventHub events, Outbox outbox) {
    this.core = core;
    this.jobs = jobs;
    this.ssd = ssd;
    this.events = events;
    this.outbox = outbox;
  }

  /** What ends this process, where only another one can serve; before the first rank is here. */
  void endWith(Consumer<String> end) {
    endOfProcess = end;
  }

  /** Looks again whether an instance is ready; does nothing for tools. */
  void update(@Nullable Instance instance) {
    if (instance == null) {
      return;
    }
    String missing = instance.missing();
    if (missing != null) {
      if (instance.ready) {
        instance.ready = false;
        LOG.info("instance {} is not ready: {}", instance.name, missing);
      }
      return;
    }
    if (!instance.ready) {
      open(instance);
    }
  }

  private void open(Instance instance) {
    long[] digest = instance.digest();
    long[] partBytes = instance.partBytes();
    int namespace;
    try {
      namespace =
          core.openNamespace(
              digest[0],
              digest[1],
              partBytes.length,
              partBytes,
              ssd.recordedGeneration(digest[0], digest[1]));
      if (instance.namespace != namespace) {
        close(instance);
      }
      core.openInstance(instance.id, namespace);
    } catch (IllegalArgumentException | IllegalStateException e) {
      LOG.error("instance {} cannot be served: {}", instance.name, e.getMessage());
      return;
    }
    instance.namespace = namespace;
    instance.storedOnce = instance.sameOnAllRanks();
    instance.partOffsets =
        instance.storedOnce ? new long[instance.worldSize()] : offsets(partBytes);
    instance.ready = true;
    Session scheduler = Objects.requireNonNull(instance.scheduler, "ready without a scheduler");
    ssd.opened(namespace, digest[0], digest[1], scheduler.hello.blockTokens());
    if (instance.resetPending) {
      instance.resetPending = false;
      List<SsdRouter.Answer> waiting = instance.takeResetAnswers();
      ssd.reset(
          digest[0],
          digest[1],
          core.resetNamespace(namespace),
          (generation, durable) -> waiting.forEach(answer -> answer.reset(generation, durable)));
    }
    jobs.run();
    subscribe(instance);
    LOG.info(
        "instance {} is ready: {} ranks{}, {} bytes a block, namespace {}",
        instance.name,
        instance.worldSize(),
        instance.storedOnce ? " with the same bytes, stored once" : "",
        Arrays.stream(partBytes).sum(),
        HexFormat.of().toHexDigits(digest[0]));
    String objection =
        ssd.objection(instance.storedOnce ? partBytes[0] : Arrays.stream(partBytes).sum());
    if (!objection.isEmpty()) {
      LOG.warn("instance {}: {}", instance.name, objection);
    }
  }

  /** From now on its scheduler hears of the namespace's blocks, if it asked to. */
  private void subscribe(Instance instance) {
    Session scheduler = instance.scheduler;
    if (scheduler != null && scheduler.hello.events()) {
      events.subscribe(
          scheduler.id,
          instance.namespace,
          scheduler.hello.blockTokens(),
          (record, length) -> outbox.notice(scheduler, record, length));
    }
  }

  private static long[] offsets(long[] partBytes) {
    long[] offsets = new long[partBytes.length];
    for (int i = 1; i < offsets.length; i++) {
      offsets[i] = offsets[i - 1] + partBytes[i - 1];
    }
    return offsets;
  }

  private void close(Instance instance) {
    core.closeInstance(instance.id);
    jobs.run();
  }

  /** A session has ended: what it held goes, except what a copy may still touch. */
  void sessionEnded(Instance instance, Session session) {
    if (instance.scheduler == session) {
      events.unsubscribe(session.id);
      instance.ready = false;
      close(instance);
      instance.namespace = -1; // its successor may be of another: what that resets is its own
      jobs.schedulerEnded(session);
      return;
    }
    int rank = session.hello.rank();
    if (instance.workers[rank] != session) {
      return;
    }
    jobs.workerEnded(session);
    core.abandonPart(instance.id, rank);
    jobs.run();
    Registration registration = instance.ranks[rank];
    instance.ranks[rank] = null;
    if (registration != null) {
      registration.closeLater();
    }
  }

  /**
   * Takes ranks out whose copies all fail from now on; {@link #endFailedWorkers} ends their
   * workers' sessions: a worker comes back with a new one and registers anew, which opens its
   * memory once more. Nothing is promised to their instances meanwhile.
   */
  void endFailedRanks(Collection<Instance> instances, long nowNanos) {
    for (Instance instance : instances) {
      for (int rank = 0; rank < instance.worldSize(); rank++) {
        Registration registration = instance.ranks[rank];
        Session worker = instance.workers[rank];
        String cause = registration == null ? null : registration.mover.failed();
        if (registration != null && worker != null && cause != null) {
          instance.ranks[rank] = null;
          instance.copyFailures.computeIfAbsent(rank, r -> new CopyFailures()).add(nowNanos);
          registration.closeLater();
          String reason = "so that it registers anew: every copy of it fails: " + cause;
          failed.add(new FailedWorker(worker, reason, nowNanos + Registration.DRAIN_NANOS));
          update(instance);
        }
      }
    }
  }

  /**
   * Ends the sessions of workers whose rank was taken out, each once all of its jobs are answered:
   * over another session it could only ask for them if it were allowed to register, and it ends a
   * process that leaves it without an answer. Copies that do not end hold it for as long as their
   * mover waits for them.
   *
   * @return how many
   */
  int endFailedWorkers(long nowNanos) {
    if (failed.isEmpty()) {
      return 0;
    }
    int before = failed.size();
    failed.removeIf(each -> {
      boolean over = nowNanos - each.untilNanos() >= 0 || !jobs.hasParts(each.session());
      if (over) {
        outbox.dismiss(each.session(), each.reason());
      }
      return over || each.session().ended;
    });
    return before - failed.size();
  }

  /** Lets ranks take part again that were left alone for long enough. */
  void resumeRanks(Collection<Instance> instances, long nowNanos) {
    for (Instance instance : instances) {
      for (CopyFailures failures : instance.copyFailures.values()) {
        if (failures.resume(nowNanos)) {
          update(instance);
        }
      }
    }
  }

  /**
   * A device refused a rank's memory. If it served the rank before, failed its copies, and has
   * refused it since, what is lost is ours: a CUDA context does not recover, and the engine that
   * asks again and again has one that works. Another process would serve it, so this one ends,
   * unless that took the cache from somebody who is served.
   */
  void refused(Instance instance, int rank, Collection<Instance> instances, long nowNanos) {
    CopyFailures failures = instance.copyFailures.get(rank);
    if (failures == null || !failures.refused(nowNanos)) {
      return;
    }
    String lost =
        "the device of rank %d of %s failed its copies, and takes its memory no more"
            .formatted(rank, instance.name);
    Instance served = anyServed(instances, "");
    if (served == null) {
      endOfProcess.accept(lost + "; another sidecar may serve it");
    } else if (failures.tell()) {
      LOG.error("{}; remedy: restart this sidecar, which {} still uses", lost, served.name);
    }
  }

  /**
   * What this process has on a GPU is lost for good: it serves nobody there any more, whoever
   * comes, and be it an engine that has not been here before. Another process would, so this one
   * ends at once, unless that took the cache from somebody on another GPU.
   */
  void gpuLost(Instance instance, int rank, String gpu, Collection<Instance> instances) {
    String lost =
        "GPU %s is lost to this sidecar, which rank %d of %s needs"
            .formatted(gpu, rank, instance.name);
    Instance served = anyServed(instances, gpu);
    if (served == null) {
      endOfProcess.accept(lost + "; another sidecar may serve it");
    } else if (lostGpus.size() < MAX_LOST_GPUS && lostGpus.add(gpu)) {
      LOG.error("{}; remedy: restart this sidecar, which {} still uses", lost, served.name);
    }
  }

  /** An instance that is served; not by a GPU that is lost, where it only has not noticed yet. */
  private static @Nullable Instance anyServed(Collection<Instance> instances, String lostGpu) {
    for (Instance instance : instances) {
      if (instance.ready && (lostGpu.isEmpty() || !instance.uses(lostGpu))) {
        return instance;
      }
    }
    return null;
  }

  /** A rank's memory has been opened; replaces an earlier one. */
  void register(Instance instance, int rank, Registration registration) {
    CopyFailures failures = instance.copyFailures.get(rank);
    if (failures != null) {
      failures.accepted();
    }
    Registration before = instance.ranks[rank];
    instance.ranks[rank] = registration;
    if (before != null) {
      before.closeLater();
    }
    update(instance);
  }

  /** A rank trusts its layout; returns why its instance is not ready, null if it is. */
  @Nullable String confirm(Instance instance, Registration registration) {
    registration.confirmed = true;
    update(instance);
    return instance.ready ? null : Objects.requireNonNullElse(instance.missing(), "see the log");
  }
}
