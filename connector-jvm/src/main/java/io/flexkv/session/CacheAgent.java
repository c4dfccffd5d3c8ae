package io.flexkv.session;

import io.flexkv.cache.CacheConfig;
import io.flexkv.cache.CacheCore;
import io.flexkv.cache.CacheStats;
import io.flexkv.cache.EvictionSettings;
import io.flexkv.cache.SlotAllocator;
import io.flexkv.cache.SsdConfig;
import io.flexkv.events.EventHub;
import io.flexkv.ffm.EventFd;
import io.flexkv.ffm.PollSet;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.tier.HostPool;
import io.flexkv.transfer.Completion;
import io.flexkv.transfer.CompletionQueue;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The cache thread: owns the cache core, every session's rings and every job.
 *
 * <p><b>Duty cycle.</b> {@link #doWork} looks once at everything and returns how much it did. After
 * work it spins for a while where that helps ({@link SpinPolicy}), because the next record of a
 * scheduling step follows within microseconds; then it says so in every session file ({@code
 * sleeping = 1}), looks at all rings once more (a client that stored its record before it could see
 * the word is found here) and sleeps in {@code poll} on the eventfd that clients, movers and the
 * other threads raise. While sessions are open it sleeps at most {@value #SLEEP_MILLIS} ms: a
 * wake-up that a client without a store-load fence skipped costs that, not a request.
 */
public final class CacheAgent implements Runnable {
  private static final Logger LOG = LoggerFactory.getLogger(CacheAgent.class);
  private static final int SLEEP_MILLIS = 20;
  private static final int RECORDS_A_TURN = 64;
  private static final int COMPLETIONS_A_TURN = 256;
  private static final int MAX_COMPLETIONS = 65_536;
  private static final long TICK_NANOS = 1_000_000_000L;

  /** The {@code Go} of a load comes so soon after its plan, as a rule: half a millisecond. */
  private static final long GO_NANOS = 1_000_000;

  /** A load ends so soon after its last slice was submitted: no more than that is on its way. */
  private static final long END_NANOS = 2_000_000;

  private final SpinPolicy spinPolicy;
  private final EventFd wake;
  private final PollSet poll = new PollSet(1);
  private final AgentInbox inbox;
  private final LifeSigns lifeSigns = new LifeSigns();
  private final Directory directory = new Directory();
  private final Outbox outbox;
  private final EventHub events = new EventHub();
  private final JobRouter jobs;
  private final SsdRouter ssd;
  private final String build;
  private final HostSlots slots;
  private final CacheCore core;
  private final RecordHandler records;
  private final Readiness readiness;
  private final Farewells farewells;
  private final CompletionQueue completions;
  private final MemorySegment record = Arena.ofAuto().allocate(Protocol.MAX_RECORD_BYTES, 8);
  private volatile @Nullable RendezvousServer rendezvous;
  private final Runnable changesFirst = this::takeChanges;
  private volatile boolean running = true;
  private long lastTickNanos;
  private long expectNanos;

  /**
   * Without an SSD tier.
   *
   * @param slots the host tier
   * @param limits of the cache core
   * @param spinNanos how long to spin after the last work
   */
  public CacheAgent(BootIdentity identity, HostSlots slots, CacheConfig limits, long spinNanos)
      throws IOException {
    this(identity, slots, null, limits, spinNanos);
  }

  /**
   * @param slots the host tier
   * @param ssdUse the SSD tier, null if there is none
   * @param limits of the cache core
   * @param spinNanos how long to spin after the last work
   */
  public CacheAgent(
      BootIdentity identity,
      HostSlots slots,
      @Nullable SsdUse ssdUse,
      CacheConfig limits,
      long spinNanos)
      throws IOException {
    this.build = identity.build();
    this.slots = slots;
    this.spinPolicy = new SpinPolicy(spinNanos);
    this.wake = EventFd.create();
    this.inbox = new AgentInbox(wake);
    this.outbox = new Outbox(identity.bootEpoch());
    this.ssd = new SsdRouter(ssdUse, slots, events, identity.bootEpoch(), System::nanoTime);
    this.jobs = new JobRouter(directory, outbox, slots, ssd, events, System::nanoTime);
    this.core =
        new CacheCore(
            limits,
            EvictionSettings.DEFAULT,
            slots,
            ssdUse == null ? SlotAllocator.NONE : ssd,
            ssdUse == null ? SsdConfig.forHost(slots.capacityBytes()) : ssdUse.config(),
            jobs,
            System::nanoTime,
            identity.bootEpoch());
    jobs.bind(core);
    ssd.bind(core);
    this.records = new RecordHandler(core, jobs, ssd, events, outbox);
    this.readiness = new Readiness(core, jobs, ssd, events, outbox);
    this.farewells = new Farewells(jobs);
    this.completions = new CompletionQueue(MAX_COMPLETIONS, inbox::signal, inbox::signal);
    this.lastTickNanos = System.nanoTime();
  }

  // ------------------------------------------------------------------ any thread

  EventFd wake() {
    return wake;
  }

  /** Of this sidecar, as it is told to clients. */
  String build() {
    return build;
  }

  AgentInbox inbox() {
    return inbox;
  }

  CompletionQueue completions() {
    return completions;
  }

  void connect(RendezvousServer server) {
    rendezvous = server;
  }

  /** Wakes the cache thread: the SSD store has news. */
  public void ssdMoved() {
    inbox.signal();
  }

  /** Asks the thread to end all sessions and itself. */
  public void stop() {
    running = false;
    inbox.signal();
  }

  // ------------------------------------------------------------------ cache thread

  /** How room is made from now on; also before the thread has begun. */
  public void setEviction(EvictionSettings eviction) {
    core.setEviction(eviction);
  }

  /** How fast engines compute: see {@link CacheCore#setRecompute}. */
  public void setRecompute(long tokensPerSecond) {
    core.setRecompute(tokensPerSecond);
  }

  /**
   * The host tier has another size from now on: see {@link HostPool#resize}. What a smaller one
   * holds beyond its end is freed turn by turn, as soon as nobody needs it.
   */
  public void resizeHost(long capacityBytes) {
    slots.resize(capacityBytes);
    core.hostResized();
  }

  /** The SSD tier has another size from now on, for which its store was made ready. */
  public void resizeSsd(long bytes) {
    ssd.resize(bytes);
    core.ssdResized();
  }

  /** What is told in the log; before the thread has begun. */
  public void tell(boolean traceTransfers, long evictionNanos) {
    lifeSigns.use(traceTransfers, evictionNanos, System.nanoTime());
  }

  /** What ends this process, where only another one can serve; before the thread has begun. */
  public void endWith(Consumer<String> end) {
    readiness.endWith(end);
  }

  Directory directory() {
    return directory;
  }

  Readiness readiness() {
    return readiness;
  }

  Farewells farewells() {
    return farewells;
  }

  CacheStats stats() {
    return core.stats();
  }

  SsdRouter ssd() {
    return ssd;
  }

  EventHub events() {
    return events;
  }

  int openParts() {
    return jobs.openParts();
  }

  @Override
  public void run() {
    try {
      ssd.recover(inbox);
      while (running) {
        if (doWork() > 0 || expectsMore()) {
          spin();
        } else {
          long asleep = System.nanoTime();
          boolean woken = sleep();
          spinPolicy.slept(System.nanoTime() - asleep, woken);
        }
      }
    } catch (IOException | RuntimeException e) {
      LOG.error("the cache thread ended by an error of its own", e);
      throw new IllegalStateException(e);
    } finally {
      for (Session session : List.copyOf(directory.sessions())) {
        end(session);
      }
      farewells.close();
    }
  }

  /** One turn; returns how many things it did. */
  int doWork() {
    int work = 0;
    work += takeChanges();
    work += inbox.runCalls(changesFirst);
    work += takeCompletions();
    work += ssd.poll();
    work += readRings();
    work += tick();
    work += core.turn();
    work += jobs.run();
    work += events.pump();
    work += readiness.endFailedWorkers(System.nanoTime());
    work += endBroken();
    work += farewells.isEmpty() ? 0 : farewells.doWork(record, System.nanoTime());
    return work;
  }

  private int takeChanges() {
    int count = 0;
    for (AgentInbox.Change change; (change = inbox.nextChange()) != null; count++) {
      Session session = change.session();
      if (!change.opened()) {
        end(session);
      } else {
        directory.add(session);
        readiness.update(session.instance);
      }
    }
    return count;
  }

  private int takeCompletions() {
    int count = 0;
    while (count < COMPLETIONS_A_TURN) {
      Completion done = completions.poll();
      if (done == null) {
        return count;
      }
      count++;
      lifeSigns.completed(done);
      if (done.status() == Completion.Status.FAILED) {
        // Before its client hears of it: what it asks next is not to promise what cannot be copied.
        readiness.endFailedRanks(directory.instances(), System.nanoTime());
      }
      jobs.completed(done);
    }
    return count;
  }

  private int readRings() {
    int work = 0;
    boolean flush = false;
    List<Session> sessions = directory.sessions();
    for (int i = 0; i < sessions.size(); i++) {
      Session session = sessions.get(i);
      try {
        for (int n = 0; n < RECORDS_A_TURN; n++) {
          int length = session.read(record);
          if (length == 0) {
            break;
          }
          work++;
          records.handle(session, record, length);
        }
        if (session.isWaiting()) {
          work += session.sendWaiting();
        }
      } catch (ProtocolException e) {
        outbox.breakOff(session, String.valueOf(e.getMessage()));
      }
      flush |= session.unflushed;
      session.unflushed = false;
    }
    RendezvousServer server = rendezvous;
    if (flush && server != null) {
      server.flush();
    }
    return work;
  }

  private int tick() {
    long now = System.nanoTime();
    if (now - lastTickNanos < TICK_NANOS) {
      return 0;
    }
    lastTickNanos = now;
    core.tick();
    readiness.endFailedRanks(directory.instances(), now);
    readiness.resumeRanks(directory.instances(), now);
    lifeSigns.tick(now, () -> core.stats().evictedBlocks());
    return 0;
  }

  private int endBroken() {
    int count = 0;
    for (Outbox.Broken broken; (broken = outbox.nextBroken()) != null; count++) {
      Session session = broken.session();
      if (!session.ended) {
        LOG.warn("{} ended, {}", session.label(), broken.reason());
        if (broken.lawful()) {
          release(session);
          farewells.add(session, System.nanoTime());
        } else {
          end(session);
        }
        RendezvousServer server = rendezvous;
        if (server != null) {
          server.end(session);
        }
      }
    }
    return count;
  }

  /** Frees what a session held; once. */
  private void end(Session session) {
    if (!session.ended) {
      release(session);
      session.memory.close();
    }
  }

  /** Frees all but its memory. */
  private void release(Session session) {
    session.ended = true;
    Instance instance = session.instance;
    if (instance != null) {
      readiness.sessionEnded(instance, session);
    }
    directory.remove(session);
    if (instance != null) {
      readiness.update(instance);
    }
  }

  // ------------------------------------------------------------------ sleep

  /** After work: looks for more for a while, and goes on as long as more comes. */
  private void spin() {
    long began = System.nanoTime();
    long nanos = spinNanos(began);
    while (running && System.nanoTime() - began < nanos) {
      if (doWork() > 0) {
        spinPolicy.found();
        began = System.nanoTime();
        nanos = spinNanos(began);
      } else {
        Thread.onSpinWait();
      }
    }
  }

  private long spinNanos(long now) {
    if (expectsMore()) {
      spinPolicy.expect(now + expectNanos);
      expectNanos = 0;
    }
    return spinPolicy.afterWork(now);
  }

  /** Whether something comes within a millisecond or two that somebody waits for. */
  private boolean expectsMore() {
    if (records.takePlannedLoad()) {
      expectNanos = Math.max(expectNanos, GO_NANOS);
    }
    if (completions.takeAnnounced()) {
      expectNanos = Math.max(expectNanos, END_NANOS);
    }
    return expectNanos > 0;
  }

  /**
   * Sleeps until somebody raises the eventfd, or for a short time; returns whether somebody did.
   */
  private boolean sleep() throws IOException {
    List<Session> sessions = directory.sessions();
    for (int i = 0; i < sessions.size(); i++) {
      sessions.get(i).memory.setSleeping(true);
    }
    boolean woken = anyInput(sessions);
    if (!woken) {
      poll.clear();
      poll.add(wake.fd(), PollSet.IN);
      boolean alone =
          sessions.isEmpty()
              && farewells.isEmpty()
              && jobs.openParts() == 0
              && !slots.shrinks()
              && !ssd.shrinks();
      woken = poll.poll(alone ? -1 : SLEEP_MILLIS) > 0;
      if (woken) {
        wake.drain();
      }
    }
    for (int i = 0; i < sessions.size(); i++) {
      sessions.get(i).memory.setSleeping(false);
    }
    return woken;
  }

  private boolean anyInput(List<Session> sessions) {
    if (!inbox.isEmpty()) {
      return true;
    }
    for (int i = 0; i < sessions.size(); i++) {
      if (sessions.get(i).hasInput()) {
        return true;
      }
    }
    return false;
  }
}
