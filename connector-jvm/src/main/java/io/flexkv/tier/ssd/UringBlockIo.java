package io.flexkv.tier.ssd;

import io.flexkv.ffm.DirectFile;
import io.flexkv.ffm.Errno;
import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.EventFd;
import io.flexkv.ffm.IoUring;
import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.atomic.AtomicReferenceArray;
import org.jspecify.annotations.Nullable;

/**
 * Accesses by one thread and one io_uring: as many under way as the ring has entries.
 *
 * <p>The thread sleeps in {@code io_uring_enter} until an access ends, or until a poll of an
 * eventfd says that something was queued. It says beforehand that it is about to sleep ({@link
 * #asleep}) and looks at the queue once more; who queues looks at that word afterwards: so one of
 * the two sees the other, and a busy thread costs nobody a system call.
 *
 * <p>If the ring itself fails, all accesses fail with EIO from then on, and the directory is taken
 * out by who asked.
 */
final class UringBlockIo implements BlockIo {
  private static final System.Logger LOG = System.getLogger(UringBlockIo.class.getName());
  private static final long WAKE_UP = -1;

  /**
   * What a disk is asked for at once at most: more makes no disk faster, and what the kernel has
   * cannot be overtaken by what is more urgent. Disks serve what they have side by side, so this is
   * also what comes before the first block of a chain is whole.
   */
  private static final long MAX_BYTES_UNDER_WAY = 16L << 20;

  /** Accesses that are prepared before the disk hears of them. */
  private static final int SUBMIT_AT_ONCE = 4;

  /** Payload writes under way: enough for any disk, and soon over where a live read waits. */
  private static final int MAX_WRITES = 8;

  private static final long MAX_RANGE_BYTES = 1L << 30;

  private volatile List<DirectFile> files;
  private final IoFaults faults;

  /** Of its thread, and of tests. */
  final IoUring ring;

  private final EventFd wakeUp;
  private final IoQueue queue;
  private final Thread thread;

  /** By place in the ring: when its access began (0 = none), and the access. */
  private final AtomicLongArray begun;

  private final AtomicReferenceArray<@Nullable BlockOp> underWay;
  private final Deque<Integer> freePlaces = new ArrayDeque<>();
  private final List<BlockOp> fresh = new ArrayList<>();
  private final List<BlockOp> ended = new ArrayList<>();
  private final List<Integer> endedErrno = new ArrayList<>();
  private List<MemorySegment> ranges = List.of();
  private final AtomicReference<@Nullable Offer> offered = new AtomicReference<>();
  private volatile boolean asleep;
  private volatile boolean broken;
  private long bytesUnderWay;
  private boolean polled;
  private boolean released;

  /** How often memory was registered. */
  private final AtomicInteger registrations = new AtomicInteger();

  /** Memory that is to be registered instead of that which is. */
  private record Offer(List<MemorySegment> ranges, CompletableFuture<Void> done) {
    void end(@Nullable Throwable failure) {
      if (failure == null) {
        done.complete(null);
      } else {
        done.completeExceptionally(failure);
      }
    }
  }

  private UringBlockIo(
      String name, List<DirectFile> files, IoUring ring, EventFd wakeUp, IoFaults faults) {
    this.files = List.copyOf(files);
    this.faults = faults;
    this.ring = ring;
    this.wakeUp = wakeUp;
    // One entry is the poll's.
    int places = Math.max(1, ring.entries() - 1);
    this.queue = new IoQueue(Math.clamp(places / 2, 1, MAX_WRITES));
    this.begun = new AtomicLongArray(places);
    this.underWay = new AtomicReferenceArray<>(places);
    for (int i = 0; i < places; i++) {
      freePlaces.add(i);
    }
    this.thread = Thread.ofPlatform().daemon().name(name).unstarted(this::run);
  }

  /**
   * Sets a ring up.
   *
   * @param entries 2 or more
   * @param flags {@code IORING_SETUP_*} bits
   * @throws ErrnoException where io_uring is not to be had: use {@link ThreadBlockIo}
   */
  static UringBlockIo open(
      String name, List<DirectFile> files, int entries, int flags, IoFaults faults)
      throws ErrnoException {
    IoUring ring = IoUring.open(Math.max(2, entries), flags);
    EventFd wakeUp = null;
    try {
      ring.registerFiles(files);
      wakeUp = EventFd.create();
      UringBlockIo io = new UringBlockIo(name, files, ring, wakeUp, faults);
      io.thread.start();
      return io;
    } catch (ErrnoException | RuntimeException e) {
      ring.close();
      if (wakeUp != null) {
        wakeUp.close();
      }
      throw e;
    }
  }

  @Override
  public void submit(BlockOp op) {
    if (broken || !queue.offer(op)) {
      op.done(queue.closed() ? Errno.ECANCELED : Errno.EIO);
      return;
    }
    wake();
    if (broken) {
      failQueued(); // the thread may have ended between the two looks
    }
  }

  private void wake() {
    if (asleep) {
      try {
        wakeUp.signal();
      } catch (ErrnoException e) {
        LOG.log(Level.ERROR, "an eventfd cannot be signalled: {0}", e.getMessage());
      }
    }
  }

  private void run() {
    try {
      while (!(queue.closed() && idle())) {
        cycle();
      }
    } catch (ErrnoException | RuntimeException | Error e) {
      LOG.log(Level.ERROR, thread.getName() + " ended: all accesses fail from now on", e);
    } finally {
      broken = true;
      failQueued();
      refuseOffer();
    }
  }

  private boolean idle() {
    return freePlaces.size() == begun.length();
  }

  private void failQueued() {
    for (BlockOp op : queue.drain()) {
      ThreadBlockIo.done(op, queue.closed() ? Errno.ECANCELED : Errno.EIO);
    }
  }

  private void cycle() throws ErrnoException {
    register();
    if (!polled) {
      ring.preparePoll(wakeUp.fd(), WAKE_UP);
      polled = true;
    }
    admit();
    meanwhile();
    asleep = true;
    admit(); // after the word, so that nothing that was queued before it is slept over
    boolean nothingToDo =
        ended.isEmpty()
            && fresh.isEmpty()
            && !(idle() && (offered.get() != null || queue.closed()));
    ring.enter(nothingToDo ? 1 : 0);
    asleep = false;
    ring.reap(this::completed);
    // The disk gets new work before the old is looked at.
    admit();
    meanwhile();
    finish();
  }

  /** The disk begins with what was admitted, and this thread does its part of it. */
  private void meanwhile() throws ErrnoException {
    ring.enter(0);
    fresh.forEach(BlockOp::meanwhile);
    fresh.clear();
  }

  private void admit() throws ErrnoException {
    int prepared = 0;
    BlockOp op;
    while (offered.get() == null // else first what is under way ends: see register()
        && !freePlaces.isEmpty()
        && bytesUnderWay < MAX_BYTES_UNDER_WAY
        && (op = queue.poll()) != null) {
      if (!op.begin()) {
        end(op, Errno.ECANCELED);
        continue;
      }
      int place = freePlaces.pop();
      begun.set(place, ThreadBlockIo.nonZero(System.nanoTime()));
      underWay.set(place, op);
      bytesUnderWay += op.rest();
      fresh.add(op);
      send(place, op);
      if (++prepared % SUBMIT_AT_ONCE == 0) {
        ring.enter(0);
      }
    }
  }

  @Override
  public void useFiles(List<DirectFile> these) {
    ring.useRegisteredFiles(these.size());
    files = List.copyOf(these);
  }

  private void send(int place, BlockOp op) {
    int permitted = faults.permit(op, op.rest());
    if (permitted < 0) {
      completed(place, permitted);
      return;
    }
    int buffer = bufferOf(op.memory(), permitted);
    ring.prepare(
        op.isWrite(),
        op.file(),
        files.get(op.file()),
        op.at(),
        op.memory(),
        permitted,
        buffer,
        place);
  }

  private void completed(long userData, int result) {
    if (userData == WAKE_UP) {
      polled = false;
      try {
        wakeUp.drain();
      } catch (ErrnoException e) {
        LOG.log(Level.ERROR, "an eventfd cannot be read: {0}", e.getMessage());
      }
      return;
    }
    int place = (int) userData;
    BlockOp op = java.util.Objects.requireNonNull(underWay.get(place));
    int errno = op.advance(result);
    if (errno == BlockOp.MORE) {
      send(place, op);
      return;
    }
    bytesUnderWay -= op.length();
    underWay.set(place, null);
    begun.set(place, 0);
    freePlaces.push(place);
    end(op, errno);
  }

  private void end(BlockOp op, int errno) {
    queue.finished(op);
    ended.add(op);
    endedErrno.add(errno);
  }

  private void finish() {
    for (int i = 0; i < ended.size(); i++) {
      ThreadBlockIo.done(ended.get(i), endedErrno.get(i));
    }
    ended.clear();
    endedErrno.clear();
  }

  @Override
  public CompletableFuture<Void> registerMemory(List<MemorySegment> memory) {
    List<MemorySegment> pieces = new ArrayList<>();
    for (MemorySegment segment : memory) {
      for (long at = 0; at < segment.byteSize(); at += MAX_RANGE_BYTES) {
        pieces.add(segment.asSlice(at, Math.min(MAX_RANGE_BYTES, segment.byteSize() - at)));
      }
    }
    Offer offer = new Offer(List.copyOf(pieces), new CompletableFuture<>());
    Offer before = offered.getAndSet(offer);
    if (before != null) {
      var _ = offer.done.whenComplete((_, failure) -> before.end(failure));
    }
    wake();
    if (broken) {
      refuseOffer(); // the thread may have ended between the two looks
    }
    return offer.done;
  }

  /** No access names registered memory any more. */
  private void refuseOffer() {
    Offer offer = offered.getAndSet(null);
    if (offer != null) {
      offer.end(null);
    }
  }

  /**
   * Registers what was offered, once nothing is under way: pinning a large pool takes seconds,
   * which would count as the disk's for an access that has begun.
   */
  private void register() throws ErrnoException {
    Offer offer = idle() ? offered.getAndSet(null) : null;
    if (offer == null) {
      return;
    }
    try {
      if (!same(offer.ranges, ranges)) {
        replaceRanges(offer.ranges);
      }
      offer.end(null);
    } catch (ErrnoException | RuntimeException | Error e) {
      offer.end(e);
      throw e;
    }
  }

  /** Not by {@code equals}, to which segments of different lengths are equal. */
  private static boolean same(List<MemorySegment> some, List<MemorySegment> others) {
    boolean same = some.size() == others.size();
    for (int i = 0; same && i < some.size(); i++) {
      MemorySegment one = some.get(i);
      MemorySegment other = others.get(i);
      same = one.address() == other.address() && one.byteSize() == other.byteSize();
    }
    return same;
  }

  private void replaceRanges(List<MemorySegment> offered) throws ErrnoException {
    if (!ranges.isEmpty()) {
      ranges = List.of();
      ring.unregisterBuffers();
    }
    registerRanges(offered);
  }

  private void registerRanges(List<MemorySegment> offered) {
    try {
      ring.registerBuffers(offered);
      ranges = offered;
      registrations.incrementAndGet();
      LOG.log(
          Level.INFO,
          "{0} uses registered memory, {1} MiB",
          thread.getName(),
          offered.stream().mapToLong(MemorySegment::byteSize).sum() >> 20);
    } catch (ErrnoException e) {
      LOG.log(
          Level.INFO,
          "{0} goes on without registered memory ({1}); to have it, raise the limit of locked"
              + " memory (ulimit -l)",
          thread.getName(),
          e.getMessage());
    }
  }

  private int bufferOf(long address, int length) {
    for (int i = 0; i < ranges.size(); i++) {
      long start = ranges.get(i).address();
      if (address >= start && address + length <= start + ranges.get(i).byteSize()) {
        return i;
      }
    }
    return IoUring.NO_BUFFER;
  }

  @Override
  public void dropQueued() {
    for (BlockOp op : queue.drain()) {
      ThreadBlockIo.done(op, Errno.ECANCELED);
    }
  }

  @Override
  public long oldestNanos() {
    return ThreadBlockIo.oldest(begun);
  }

  @Override
  public int inFlight() {
    int count = 0;
    for (int i = 0; i < begun.length(); i++) {
      count += begun.get(i) == 0 ? 0 : 1;
    }
    return count;
  }

  /** How often memory was registered, for tests. */
  int registrations() {
    return registrations.get();
  }

  @Override
  public String describe() {
    return "io_uring, " + begun.length() + " places";
  }

  @Override
  public synchronized boolean close(long timeoutNanos) {
    if (released) {
      return true;
    }
    queue.close();
    dropQueued();
    try {
      wakeUp.signal();
    } catch (ErrnoException e) {
      LOG.log(Level.ERROR, "an eventfd cannot be signalled: {0}", e.getMessage());
    }
    boolean done = ThreadBlockIo.joinAll(List.of(thread), timeoutNanos);
    if (done) {
      released = true;
      ring.close();
      wakeUp.close();
    }
    return done;
  }
}
