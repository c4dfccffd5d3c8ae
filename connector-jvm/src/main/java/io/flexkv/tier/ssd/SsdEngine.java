package io.flexkv.tier.ssd;

import io.flexkv.tier.ssd.DirectoryMeta.Digest;
import java.io.IOException;
import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicReferenceArray;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;

/**
 * The store on real disks.
 *
 * <p>Threads: the cache thread owns slots and jobs' beginnings; each directory's I/O threads own
 * accesses from their queue to their end; its care thread owns what may wait (descriptions,
 * cleaning, barriers); one watch looks at deadlines and stalls; one thread hands out survivors.
 * News go to the cache thread by a queue that is bounded by the number of open jobs: a job stands
 * in it at most once for its progress, once for its end and once for being drained.
 *
 * <p>A directory that fails or hangs is left out by its own state; nothing that the cache thread
 * calls takes a lock that is held across an access to a disk.
 */
public final class SsdEngine implements SsdStore {
  private static final System.Logger LOG = System.getLogger(SsdEngine.class.getName());
  private static final long WATCH_NANOS = 5_000_000;
  private static final long CLOSE_NANOS = 5_000_000_000L;
  private static final long RESIZE_MILLIS = 4_000;

  private final SsdResizing resizing = new SsdResizing(RESIZE_MILLIS, new SsdRoom(Disk::of));

  /** Replaced by the cache thread when the store gets another size. */
  private volatile SsdOptions options;

  private final SsdTuning tuning;
  private final Runnable wakeUp;
  private final AtomicReferenceArray<SsdDirectory> directories;
  private final SsdCounters counters = new SsdCounters();
  private final Map<Digest, Integer> generations = new ConcurrentHashMap<>();
  private final Map<Long, OpenJob> jobs = new ConcurrentHashMap<>();
  private final Set<OpenJob> undrained = ConcurrentHashMap.newKeySet();
  private final Queue<Object> news = new ConcurrentLinkedQueue<>();
  private final Queue<Long> givenUp = new ConcurrentLinkedQueue<>();
  private final Set<SsdDirectory> reattaching = ConcurrentHashMap.newKeySet();
  private final Queue<PendingReset> resets = new ConcurrentLinkedQueue<>();
  private final OpenJob.News jobNews = new JobNews();
  private final SsdDirectory.Owner owner = new Owner();
  private final Thread watch;

  /**
   * Held while directories are told of memory, and while one takes another's place: so that none is
   * told of memory that is on its way back. Nobody waits for a disk under it.
   */
  private final Object registering = new Object();

  private List<MemorySegment> memory = List.of();
  private @Nullable Thread recovery;
  private volatile boolean closed;

  /** Whether a header log waits for an extent. */
  private volatile boolean logHungry;

  private int turn;

  SsdEngine(List<DirectoryFiles> files, SsdOptions options, SsdTuning tuning, Runnable wakeUp) {
    this.options = options;
    this.tuning = tuning;
    this.wakeUp = wakeUp;
    this.directories = new AtomicReferenceArray<>(files.size());
    for (int i = 0; i < files.size(); i++) {
      generations.putAll(files.get(i).meta().generations);
      directories.set(i, new SsdDirectory(i, files.get(i), options, tuning, counters, owner));
    }
    watch = Thread.ofPlatform().daemon().name("flexkv-ssd-watch").start(this::watch);
  }

  /**
   * Opens the directories: locks them and reserves their room, but reads nothing yet.
   *
   * @param wakeUp called by threads of the store when there is news; must not block or throw
   * @param unusable is told of each that cannot be used, and why, before this returns or throws
   * @throws SsdInUseException if another process has one of them
   * @throws IOException if none of them can be used; the text says what to do
   */
  public static SsdEngine open(
      SsdOptions options, Runnable wakeUp, BiConsumer<Path, String> unusable) throws IOException {
    return SsdOpening.open(options, SsdTuning.defaults(), wakeUp, unusable);
  }

  /** The same for whom the log says enough. */
  public static SsdEngine open(SsdOptions options, Runnable wakeUp) throws IOException {
    return open(options, wakeUp, (path, cause) -> {});
  }

  static long rounded(long bytes) {
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
  }

  private List<SsdDirectory> all() {
    List<SsdDirectory> all = new ArrayList<>();
    for (int i = 0; i < directories.length(); i++) {
      all.add(directories.get(i));
    }
    return all;
  }

  @Override
  public CompletableFuture<Void> registerMemory(List<MemorySegment> segments) {
    synchronized (registering) {
      memory = List.copyOf(segments);
      return CompletableFuture.allOf(
          all().stream()
              .map(directory -> directory.io().registerMemory(memory))
              .toArray(CompletableFuture[]::new));
    }
  }

  // ---- slots: the cache thread

  @Override
  public long allocate(long slotBytes) {
    if (slotBytes <= 0) {
      throw new IllegalArgumentException("slot of " + slotBytes + " bytes");
    }
    takeGivenUp();
    if (slotBytes > MAX_SLOT_BYTES || closed) {
      return FULL;
    }
    for (int i = 0; i < directories.length(); i++) {
      int index = (turn + i) % directories.length();
      long slot = directories.get(index).allocate(rounded(slotBytes));
      if (slot != FULL) {
        turn = index + 1;
        return slot;
      }
    }
    return FULL;
  }

  private void takeGivenUp() {
    Long slot;
    while ((slot = givenUp.poll()) != null) {
      free(slot);
    }
  }

  @Override
  public void free(long slot) {
    directoryFor(slot).free(slot);
  }

  private SsdDirectory directoryFor(long slot) {
    int index = SlotNumber.directory(slot);
    if (slot < 0 || index >= directories.length()) {
      throw new IllegalArgumentException("slot %x is not of this store".formatted(slot));
    }
    return directories.get(index);
  }

  @Override
  public long capacityBytes() {
    SsdOptions wanted = options;
    int absent = wanted.directories().size() - directories.length();
    return wanted.capacityBytes() - absent * wanted.share();
  }

  @Override
  public void prepareResize(long bytes) throws IOException {
    if (!reattaching.isEmpty()) {
      throw new IOException("a directory is being attached again: try again in a moment");
    }
    resizing.prepare(all(), options.withCapacity(bytes));
  }

  @Override
  public void resize(long bytes) {
    takeGivenUp();
    options = options.withCapacity(bytes);
    resizing.resize();
  }

  @Override
  public void resizeOver() {
    resizing.over();
  }

  @Override
  public boolean shrinks() {
    takeGivenUp();
    return all().stream().anyMatch(directory -> !directory.space().vacant());
  }

  @Override
  public boolean leaves(long slot) {
    return directoryFor(slot).space().leaves(slot);
  }

  @Override
  public long surplusBytes() {
    return all().stream()
        .filter(directory -> directory.state() != State.LOST)
        .mapToLong(directory -> directory.resizing().surplusBytes())
        .sum();
  }

  @Override
  public long usedBytes() {
    takeGivenUp();
    return all().stream().mapToLong(directory -> directory.space().usedBytes()).sum();
  }

  @Override
  public int directoryOf(long slot) {
    return directoryFor(slot).index();
  }

  // ---- jobs: the cache thread

  @Override
  public boolean submit(SsdJob job) {
    if (closed || jobs.size() + undrained.size() >= tuning.maxOpenJobs()) {
      return false;
    }
    int[] blocks = new int[directories.length()];
    long touched = 0;
    for (int i = 0; i < job.blocks(); i++) {
      SsdDirectory directory = directoryFor(job.slot(i));
      SlotSpan span = directory.space().require(job.slot(i));
      if (job.identity(i).payloadBytes() > span.stride) {
        throw new IllegalArgumentException(
            "job %d: payload of %d bytes in a slot of %d"
                .formatted(job.id(), job.identity(i).payloadBytes(), span.stride));
      }
      blocks[directory.index()]++;
      touched |= 1L << directory.index();
    }
    if (!reserve(blocks)) {
      return false;
    }
    OpenJob open = new OpenJob(job, jobNews, touched);
    if (jobs.putIfAbsent(job.id(), open) != null) {
      release(blocks, blocks.length);
      throw new IllegalArgumentException("job " + job.id() + " is open already");
    }
    send(open);
    return true;
  }

  private boolean reserve(int[] blocks) {
    for (int i = 0; i < blocks.length; i++) {
      SsdDirectory directory = directories.get(i);
      boolean serves = blocks[i] == 0 || directory.state() == State.SERVING;
      if (!serves || !directory.reserve(blocks[i])) {
        release(blocks, i);
        return false;
      }
    }
    return true;
  }

  private void release(int[] blocks, int end) {
    for (int i = 0; i < end; i++) {
      directories.get(i).release(blocks[i]);
    }
  }

  private void send(OpenJob open) {
    SsdJob job = open.job();
    for (int i = 0; job.isWrite() && i < job.blocks(); i++) {
      directoryFor(job.slot(i)).payloadQueued();
    }
    for (int i = 0; i < job.blocks(); i++) {
      SsdDirectory directory = directoryFor(job.slot(i));
      SlotSpan span = directory.space().require(job.slot(i));
      directory.io().submit(BlockAccess.of(open, i, directory, span, counters));
    }
  }

  @Override
  public boolean cancel(long jobId) {
    OpenJob open = jobs.get(jobId);
    return open != null && open.stop(SsdEvent.Outcome.CANCELLED, "cancelled");
  }

  // ---- news

  /** From the I/O threads to the queue. */
  private final class JobNews implements OpenJob.News {
    @Override
    public void progress(OpenJob open) {
      if (open.job().enqueue()) {
        tell(open);
      }
    }

    @Override
    public void ended(OpenJob open, SsdEvent.Ended event) {
      if (!event.drained()) {
        undrained.add(open);
      }
      // Told first: what waits to be told counts as open, and so the queue stays bounded.
      tell(event);
      jobs.remove(open.job().id(), open);
    }

    @Override
    public void drained(OpenJob open) {
      tell(new SsdEvent.Drained(open.job()));
      undrained.remove(open);
    }
  }

  private void tell(Object what) {
    news.add(what);
    wake();
  }

  private void wake() {
    try {
      wakeUp.run();
    } catch (RuntimeException e) {
      LOG.log(Level.ERROR, "the wake-up after news of the SSD tier failed", e);
    }
  }

  @Override
  public @Nullable SsdEvent poll() {
    Object next = news.poll();
    if (next == null) {
      if (logHungry) {
        logHungry = false;
        all().forEach(SsdDirectory::feedLog);
      }
      return null;
    }
    if (next instanceof OpenJob open) {
      open.job().dequeued();
      return new SsdEvent.Progress(open.job(), open.job().ready());
    }
    return (SsdEvent) next;
  }

  @Override
  public void forgotten(int directory) {
    directories.get(directory).forget();
  }

  // ---- resets

  @Override
  public int generation(long digestHi, long digestLo) {
    return generations.getOrDefault(new Digest(digestHi, digestLo), 0);
  }

  @Override
  public void resetNamespace(long digestHi, long digestLo, int generation) {
    Digest namespace = new Digest(digestHi, digestLo);
    generations.merge(namespace, generation, Math::max);
    List<SsdDirectory> alive =
        all().stream().filter(directory -> directory.state() != State.LOST).toList();
    PendingReset reset =
        new PendingReset(
            namespace,
            generation,
            alive.size(),
            System.nanoTime() + tuning.resetNanos(),
            this::tell);
    for (SsdDirectory directory : alive) {
      directory.raise(namespace, generation, reset::answered);
    }
    resets.add(reset);
  }

  // ---- recovery

  @Override
  public void recover(RecoverySink sink) {
    if (recovery != null) {
      throw new IllegalStateException("recover has been called before");
    }
    recovery =
        Thread.ofPlatform().daemon().name("flexkv-ssd-recovery").start(() -> runRecovery(sink));
  }

  private void runRecovery(RecoverySink sink) {
    List<SsdDirectory> all = all();
    long[] members = members();
    CountDownLatch begun = new CountDownLatch(all.size());
    all.forEach(directory -> directory.start(members, begun::countDown));
    try {
      begun.await();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt(); // the sink is told that it is over
    }
    new Recovery(all, sink, this::isCurrent, givenUp::add, tuning.waitingBytes()).run();
  }

  private boolean isCurrent(long digestHi, long digestLo, int generation) {
    return generation >= generation(digestHi, digestLo);
  }

  // ---- health

  private final class Owner implements SsdDirectory.Owner {
    @Override
    public void lost(SsdDirectory directory, String cause) {
      forceAll(directory, "SSD directory %s is out: %s".formatted(directory.path(), cause));
      if (!closed) {
        tell(new SsdEvent.DirectoryLost(directory.index(), directory.path().toString(), cause));
      }
    }

    @Override
    public void wakeUp() {
      logHungry = true;
      wake();
    }
  }

  private void forceAll(SsdDirectory directory, String why) {
    for (OpenJob open : jobs.values()) {
      if (open.touches(directory.index())) {
        open.force(SsdEvent.Outcome.FAILED, why);
      }
    }
  }

  private void watch() {
    while (!closed) {
      LockSupport.parkNanos(this, WATCH_NANOS);
      try {
        look(System.nanoTime());
      } catch (RuntimeException e) {
        LOG.log(Level.ERROR, "the watch over the SSD tier failed", e);
      }
    }
  }

  private void look(long now) {
    for (OpenJob open : jobs.values()) {
      long deadline = open.job().deadlineNanos();
      if (deadline != SsdJob.NO_DEADLINE && now - deadline >= 0) {
        boolean missed = open.force(SsdEvent.Outcome.FAILED, "its deadline has passed");
        counters.deadlinesMissed.add(missed ? 1 : 0);
      }
    }
    for (SsdDirectory directory : all()) {
      directory.tick(now);
      if (directory.checkStalled(now)) {
        forceAll(directory, "SSD directory %s stalls".formatted(directory.path()));
      }
    }
    resets.removeIf(reset -> reset.over(now));
  }

  @Override
  public List<DirectoryStatus> directories() {
    List<DirectoryStatus> states = new ArrayList<>();
    // Before the rest: a directory that is not among them shows how its attaching went.
    Set<SsdDirectory> attaching = Set.copyOf(reattaching);
    for (SsdDirectory directory : all()) {
      DirectoryMeta meta = directory.files().meta();
      states.add(
          new DirectoryStatus(
              directory.path(),
              directory.state(),
              meta.extents * meta.extentBytes,
              directory.space().usedBytes(),
              directory.cause(),
              attaching.contains(directory)));
    }
    return states;
  }

  @Override
  public boolean reattach(Path path) {
    Path wanted = path.toAbsolutePath().normalize();
    for (SsdDirectory directory : all()) {
      if (directory.path().equals(wanted)) {
        return directory.replaceable() && reattach(directory);
      }
    }
    return false;
  }

  private boolean reattach(SsdDirectory old) {
    if (!reattaching.add(old)) {
      return false;
    }
    Thread.ofPlatform()
        .daemon()
        .name("flexkv-ssd-reattach")
        .start(() -> {
          try {
            replace(old);
          } catch (IOException | RuntimeException e) {
            String why = SsdOpening.why(e);
            LOG.log(Level.ERROR, "SSD directory {0} stays out: {1}", old.path(), why);
            old.staysOut(why);
          } finally {
            reattaching.remove(old);
          }
        });
    return true;
  }

  private void replace(SsdDirectory old) throws IOException {
    old.close(CLOSE_NANOS);
    DirectoryFiles files = SsdOpening.openEmpty(old.path(), options, tuning);
    SsdDirectory fresh = new SsdDirectory(old.index(), files, options, tuning, counters, owner);
    fresh.description().merge(generations);
    synchronized (registering) {
      directories.set(old.index(), fresh);
      var _ = fresh.io().registerMemory(memory);
    }
    long[] members = members();
    fresh.start(members, fresh::mayClean);
    for (SsdDirectory other : all()) {
      if (other.index() != fresh.index() && other.state() != State.LOST) {
        other.whenPossible(() -> other.description().setMembers(members));
      }
    }
    LOG.log(Level.INFO, "SSD directory {0} is attached again, empty", old.path());
  }

  private long[] members() {
    return all().stream().mapToLong(directory -> directory.files().meta().directoryId).toArray();
  }

  @Override
  public SsdStats stats() {
    return counters.snapshot(all().stream().mapToLong(d -> d.log().bytesWritten()).sum());
  }

  @Override
  public void close() {
    if (closed) {
      return;
    }
    closed = true;
    Thread recovering = recovery;
    if (recovering != null) {
      recovering.interrupt();
    }
    jobs.values().forEach(open -> open.stop(SsdEvent.Outcome.CANCELLED, "the store is closed"));
    closeAll();
    ThreadBlockIo.joinAll(List.of(watch), CLOSE_NANOS);
  }

  /** All at once: one whose disk hangs takes nothing from those that have a clean end to note. */
  private void closeAll() {
    List<Thread> closing = new ArrayList<>();
    for (SsdDirectory directory : all()) {
      closing.add(
          Thread.ofPlatform()
              .daemon()
              .name("flexkv-ssd-close")
              .start(() -> directory.close(CLOSE_NANOS)));
    }
    ThreadBlockIo.joinAll(closing, 3 * CLOSE_NANOS);
  }
}
