package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import io.flexkv.ffm.ErrnoException;
import java.io.IOException;
import java.lang.System.Logger.Level;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/**
 * One directory at work: its space, its header log, its accesses, its health, and a thread that
 * takes care of what may wait for a disk (descriptions, cleaning, barriers).
 */
final class SsdDirectory {
  private static final System.Logger LOG = System.getLogger(SsdDirectory.class.getName());
  private static final long CARE_MILLIS = 20;
  private static final long POLL_NANOS = 1_000_000;
  private static final int LOG_EXTENTS = 4;

  /** Who uses the directory. */
  interface Owner {
    /** It has been taken out. */
    void lost(SsdDirectory directory, String cause);

    /** The cache thread should call {@link SsdDirectory#feedLog} soon. */
    void wakeUp();
  }

  private final int index;
  private final DirectoryFiles files;
  private final SsdTuning tuning;
  private final Owner owner;
  private final DirectoryHealth health;
  private final BlockIo io;
  private final DirectorySpace space;
  private final HeaderLog log;
  private final LogCleaner cleaner;
  private final Scrub scrub;
  private final DirectoryDescription description;
  private final DirectoryResizing resizing;
  private final Arena arena = Arena.ofShared();
  private final LinkedBlockingQueue<Runnable> care = new LinkedBlockingQueue<>();
  private final Thread careThread;

  /** Guards {@link #close}. */
  private final Object ending = new Object();

  /** Notes a clean end. Guarded by it. */
  private @Nullable Thread lastWord;

  private final AtomicBoolean upkeepAsked = new AtomicBoolean();
  private final AtomicInteger queued = new AtomicInteger();
  private final AtomicInteger payloadWrites = new AtomicInteger();
  private volatile boolean forgotten;
  private volatile boolean closing;
  private volatile boolean filesClosed;
  private volatile boolean dirty;
  private volatile boolean extentAsked;
  private volatile boolean mayClean;
  private volatile @Nullable DirectoryScan scan;
  private long lastBarrier = System.nanoTime();

  /**
   * @param files open, with a description that has been settled
   */
  SsdDirectory(
      int index,
      DirectoryFiles files,
      SsdOptions options,
      SsdTuning tuning,
      SsdCounters counters,
      Owner owner) {
    this.index = index;
    this.files = files;
    this.tuning = tuning;
    this.owner = owner;
    this.health = new DirectoryHealth(files.path(), tuning);
    this.io = openIo("flexkv-ssd-" + index, files, options, tuning);
    DirectoryMeta meta = files.meta();
    this.space =
        new DirectorySpace(
            index,
            meta.extents,
            meta.extentBytes,
            files.extentsPerFile(),
            this::nextSequence,
            meta.directoryId);
    this.log = new HeaderLog(files, io, space, arena, this::askForUpkeep, this::writeFailed);
    this.description = new DirectoryDescription(files, io, log, arena, this::writeFailed);
    this.cleaner = new LogCleaner(log, files, io, arena);
    this.resizing = new DirectoryResizing(this);
    this.scrub = new Scrub(this, counters, options.scrubBytesPerSecond(), arena);
    this.careThread =
        Thread.ofPlatform().daemon().name("flexkv-ssd-" + index + "-care").unstarted(this::care);
  }

  private static BlockIo openIo(
      String name, DirectoryFiles files, SsdOptions options, SsdTuning tuning) {
    if (options.ringEntries() > 0) {
      try {
        return UringBlockIo.open(
            name, files.all(), options.ringEntries(), options.ringFlags(), tuning.faults());
      } catch (ErrnoException e) {
        LOG.log(
            Level.INFO,
            "{0}: {1} threads instead of io_uring ({2}); iouring_entries=0 asks for threads",
            name,
            options.threads(),
            e.getMessage());
      }
    }
    return new ThreadBlockIo(name, files.all(), options.threads(), tuning.faults());
  }

  private long nextSequence() {
    return log.nextSequence();
  }

  int index() {
    return index;
  }

  Path path() {
    return files.path();
  }

  DirectoryFiles files() {
    return files;
  }

  DirectorySpace space() {
    return space;
  }

  HeaderLog log() {
    return log;
  }

  BlockIo io() {
    return io;
  }

  DirectoryDescription description() {
    return description;
  }

  DirectoryResizing resizing() {
    return resizing;
  }

  /** Whether what survived has been handed out. */
  boolean recovered() {
    return mayClean;
  }

  SsdStore.State state() {
    return health.state();
  }

  @Nullable String cause() {
    return health.cause();
  }

  /** See {@link SsdStore#forgotten}; the cache thread. */
  void forget() {
    forgotten = true;
  }

  /** Whether it is out, and another one may take its place. */
  boolean replaceable() {
    return state() == SsdStore.State.LOST
        && forgotten
        && space.usedBytes() == 0
        && io.inFlight() == 0;
  }

  // ---- life

  /** Finds what survived, then notes this life in the description and serves. Care thread. */
  private void begin(long[] members) {
    DirectoryMeta meta = files.meta();
    if (files.fresh()) {
      for (int extent = 0; extent < LOG_EXTENTS; extent++) {
        meta.logExtents.set(extent);
        space.claimForLog(extent);
      }
      meta.logExtents.stream().forEach(log::grant);
    } else {
      scan = DirectoryScan.run(this);
    }
    meta.members = members.clone();
    meta.clean = false;
    int errno = description.store();
    if (errno != 0) {
      lose("its description cannot be written: " + Errno.describe(errno));
    } else {
      resizing.trimAtStart();
    }
    health.recovered();
  }

  /**
   * Starts the care: {@link #begin} first.
   *
   * @param begun called when that is done, whether it serves or is out
   */
  void start(long[] members, Runnable begun) {
    care.add(() -> {
      try {
        begin(members);
      } finally {
        begun.run();
      }
    });
    careThread.start();
  }

  /** What a start found; null in an empty directory, and once it has been handed out. */
  @Nullable DirectoryScan scan() {
    return scan;
  }

  /** The survivors have been handed out: headers may be moved from now on. */
  void mayClean() {
    scan = null;
    mayClean = true;
  }

  /** Takes the directory out, for good or until it is attached again. Any thread. */
  void lose(String why) {
    if (!health.lose(why)) {
      return;
    }
    if (!closing) {
      LOG.log(
          Level.ERROR,
          "SSD directory {0} is taken out, the others go on: {1}. When it is well again, attach it"
              + " again or restart",
          path(),
          why);
    }
    io.dropQueued();
    owner.lost(this, why);
  }

  /** Call now and then: nothing in the header log waits longer than it must. */
  void tick(long nanos) {
    if (!filesClosed) {
      log.tick(nanos);
    }
  }

  /** It is out, and could not be attached again. */
  void staysOut(String why) {
    health.staysOut(why);
  }

  /** Looks whether it hangs; called every few milliseconds. Answers whether it takes no work. */
  boolean checkStalled(long nanos) {
    boolean idle = health.checkStalled(io.oldestNanos(), nanos);
    if (idle) {
      io.dropQueued(); // also what was on its way here when it was taken out
    }
    return idle;
  }

  void readFailed(int errno) {
    String why = health.readFailed(errno);
    if (why != null) {
      lose(why);
    }
  }

  void writeFailed(int errno) {
    lose("a write failed: " + Errno.describe(errno));
  }

  // ---- bounds

  /** Takes room for so many queued blocks. */
  boolean reserve(int blocks) {
    if (queued.addAndGet(blocks) > tuning.maxQueuedBlocks()) {
      queued.addAndGet(-blocks);
      return false;
    }
    return true;
  }

  void release(int blocks) {
    queued.addAndGet(-blocks);
  }

  /** A payload is going to be written. */
  void payloadQueued() {
    payloadWrites.incrementAndGet();
    dirty = true;
  }

  /** A payload's header is in the log, or there is none; says whether others are on their way. */
  boolean payloadOver() {
    return payloadWrites.decrementAndGet() > 0;
  }

  /** Whether nothing is being written. Payloads first: each becomes a header before it is over. */
  boolean quiet() {
    return payloadWrites.get() == 0 && log.quiet();
  }

  // ---- the cache thread

  /** Takes a slot, or answers FULL. */
  long allocate(long stride) {
    if (!health.serves()) {
      return SsdStore.FULL;
    }
    // A log that waits for room takes no more headers, unless an extent is on its way to it.
    boolean fed = feedLog();
    return log.stuck() && !fed ? SsdStore.FULL : space.allocate(stride);
  }

  /** Gives the header log an extent if it wants one; false if none is free. */
  boolean feedLog() {
    resizing.settle();
    if (!log.wantsExtent() || extentAsked || !health.serves()) {
      return true;
    }
    int extent = space.takeExtent();
    if (extent < 0) {
      resizing.makeRoomForLog();
      return false;
    }
    extentAsked = true;
    care.add(() -> {
      if (extent >= files.meta().extents) {
        extentAsked = false; // the directory has come to end before it
        return;
      }
      files.meta().logExtents.set(extent);
      int errno = description.store();
      if (errno == 0) {
        log.grant(extent);
      } else {
        writeFailed(errno);
      }
      extentAsked = false;
    });
    return true;
  }

  /** Takes a slot back; one that did not verify stays held for ever. */
  void free(long slot) {
    SlotSpan span = space.require(slot);
    boolean bad = span.isBad(span.indexOf(SlotNumber.offset(slot)));
    SlotSpan dissolved = bad ? space.abandon(slot) : space.free(slot);
    if (dissolved != null) {
      log.dissolved(dissolved);
    }
  }

  // ---- care

  /** Runs on the care thread, behind what it does already. */
  void whenPossible(Runnable task) {
    care.add(task);
  }

  private void care() {
    while (!closing) {
      try {
        Runnable task = care.poll(CARE_MILLIS, TimeUnit.MILLISECONDS);
        if (task != null) {
          task.run();
        } else if (health.serves()) {
          upkeep();
        }
      } catch (InterruptedException e) {
        return; // nobody but close interrupts
      } catch (RuntimeException e) {
        LOG.log(Level.ERROR, "care of SSD directory " + path() + " failed", e);
        lose("an error of the program: " + e);
      }
    }
  }

  /** Headers wait for room: cleaning should not wait for the next look. */
  private void askForUpkeep() {
    if (upkeepAsked.compareAndSet(false, true)) {
      care.add(() -> {
        upkeepAsked.set(false);
        upkeep();
      });
    }
  }

  private void upkeep() {
    int errno = mayClean ? cleaner.clean() : 0;
    if (errno != 0) {
      lose("headers cannot be moved: " + Errno.describe(errno));
      return;
    }
    if (log.wantsExtent() && !extentAsked) {
      owner.wakeUp();
    }
    long now = System.nanoTime();
    if (mayClean) {
      scrub.step(now);
      resizing.step();
    }
    if (dirty && now - lastBarrier > tuning.barrierNanos()) {
      lastBarrier = now;
      barrier();
    }
  }

  /** Makes what is stored survive a power failure. The care thread, or at the end. */
  void barrier() {
    dirty = false;
    try {
      files.sync();
    } catch (ErrnoException e) {
      lose("a barrier failed: " + Errno.describe(e.errno()));
    }
  }

  /** Notes a generation durably; the answer is 0 or an error number. */
  void raise(DirectoryMeta.Digest namespace, int generation, IntConsumer answer) {
    description.raise(namespace, generation, answer);
    care.add(description::noteRaises);
  }

  /**
   * Ends it; a clean end is noted only where everything came back and was written. May be called
   * again: a directory that cannot be attached again stays, and the store's end closes it too.
   */
  void close(long timeoutNanos) {
    synchronized (ending) {
      if (!filesClosed) {
        closeOnce(timeoutNanos);
      }
    }
  }

  private void closeOnce(long timeoutNanos) {
    long deadline = System.nanoTime() + timeoutNanos;
    boolean wasServing = health.serves();
    while (wasServing && !quiet() && System.nanoTime() - deadline < 0) {
      log.start(true);
      LockSupport.parkNanos(POLL_NANOS);
    }
    closing = true;
    careThread.interrupt();
    boolean careEnded =
        careThread.getState() == Thread.State.NEW
            || ThreadBlockIo.joinAll(List.of(careThread), timeoutNanos);
    if (lastWord == null && careEnded && wasServing && quiet()) {
      // On a thread of its own: a disk may begin to stall now, and nobody looks any more.
      String name = "flexkv-ssd-" + index + "-end";
      lastWord = Thread.ofPlatform().daemon().name(name).start(this::noteCleanEnd);
    }
    Thread note = lastWord;
    boolean ended =
        careEnded && (note == null || ThreadBlockIo.joinAll(List.of(note), timeoutNanos));
    if (io.close(Math.max(1, deadline - System.nanoTime())) && ended) {
      closeFiles();
    } else {
      LOG.log(
          Level.WARNING,
          "SSD directory {0}: accesses are still under way, its files stay open until the process"
              + " ends",
          path());
    }
  }

  private void noteCleanEnd() {
    description.noteCleanEnd(space.proven());
  }

  private void closeFiles() {
    filesClosed = true;
    try {
      files.close();
    } catch (IOException e) {
      LOG.log(Level.WARNING, "SSD directory " + path() + " cannot be closed", e);
    }
    arena.close();
  }
}
