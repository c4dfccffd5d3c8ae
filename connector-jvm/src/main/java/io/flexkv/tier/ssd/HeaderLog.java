package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Objects;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/**
 * The headers of a directory's slots, appended to extents of their own. It is journal, checkpoint
 * and header area in one: a start reads all of it and nothing else.
 *
 * <p><b>Order.</b> A header is appended when its payload has been written, and a block counts as
 * stored when its header has been written. A header that was overtaken (its slot was written anew)
 * needs no mark: the later one has a greater sequence, and is cleaned away no sooner ({@link
 * LogExtent}). A header whose slot was given back needs none either: after a restart the block is
 * there again, or its checksum says that the slot was being written.
 *
 * <p><b>Gathering.</b> One write of the log is under way at a time, of at most {@link #BATCH_PAGES}
 * pages. The next begins when a page is full, when no payload is being written any more, or when
 * the oldest header has waited for {@link #MAX_WAIT_NANOS}. Pages are never written twice.
 *
 * <p><b>Cleaning.</b> When the extents run out, one with a small share of live headers is read,
 * what is live in it is appended once more ({@link #move}), and it is free again ({@link
 * LogCleaner}). Which extents are free, and which one is cleaned next, {@link LogExtents} knows.
 *
 * <p>Thread-safe; {@code headerPage} of all spans and the extents are guarded by this object.
 */
final class HeaderLog {
  static final int BATCH_PAGES = 16;
  static final long MAX_WAIT_NANOS = 20_000_000;

  /** How long a header waits for a place in a log that is full. */
  static final long MAX_STUCK_NANOS = 2_000_000_000L;

  private static final int PAGE = SsdStore.PAGE_BYTES;

  /** Told how an appended header ended: 0, or an error number. */
  @FunctionalInterface
  interface Committed {
    void committed(int errno);
  }

  private record Entry(
      MemorySegment bytes,
      SlotSpan span,
      int index,
      long digest,
      int sum,
      int movedFrom,
      long nanos,
      Committed callback) {}

  private final DirectoryFiles files;
  private final BlockIo io;
  private final DirectorySpace space;
  private final Runnable wantsCleaning;
  private final IntConsumer failure;
  private final LogExtents extents;
  private final MemorySegment batch;

  /** How many headers each page of the batch holds. */
  private final int[] pageCounts = new int[BATCH_PAGES];

  private final Deque<Entry> waiting = new ArrayDeque<>();
  private final Deque<Entry> moving = new ArrayDeque<>();
  private final Queue<SlotSpan> dissolved = new ConcurrentLinkedQueue<>();
  private long nextSequence = 1;
  private int waitingBytes;
  private boolean writing;

  /** What waits goes with the next write, be it one header. */
  private boolean wanted;

  private boolean failed;
  private boolean headersMissing;
  private long pagesWritten;

  HeaderLog(
      DirectoryFiles files,
      BlockIo io,
      DirectorySpace space,
      Arena arena,
      Runnable wantsCleaning,
      IntConsumer failure) {
    this.wantsCleaning = wantsCleaning;
    this.failure = failure;
    this.files = files;
    this.io = io;
    this.space = space;
    this.extents = new LogExtents(files.meta().extents, (int) (files.meta().extentBytes / PAGE));
    this.batch = arena.allocate((long) BATCH_PAGES * PAGE, PAGE);
  }

  int pagesPerExtent() {
    return extents.pagesPerExtent();
  }

  // ---- setting up: the recovery's thread, before anything is appended

  /** Numbers of what is there; new ones are greater. */
  synchronized void startAfter(long sequence, long use) {
    nextSequence = Math.max(nextSequence, sequence + 1);
    extents.startAfter(use);
  }

  /**
   * An extent that holds headers. The one of the latest use is appended to.
   *
   * @param next the page after its last valid one
   */
  synchronized void restore(LogExtent restored, int next) {
    extents.restore(restored, next);
  }

  /** A number greater than all given out before. */
  synchronized long nextSequence() {
    return nextSequence++;
  }

  /** A number greater than those of all uses of extents before. */
  synchronized long nextUse() {
    return extents.nextUse();
  }

  // ---- extents

  /** An empty extent, already noted in the directory's description. */
  void grant(int extent) {
    synchronized (this) {
      extents.grant(extent);
    }
    start(true);
  }

  /**
   * The directory ends here from now on.
   *
   * @return extents before the end that the log needs, to leave those beyond it
   */
  synchronized int resize(int end) {
    return extents.resize(end);
  }

  /** Whether it needs nothing beyond the end any more. */
  synchronized boolean vacant() {
    return extents.vacant();
  }

  /** Takes no extent beyond the end from now on; false if it uses one there. */
  synchronized boolean leaveBeyond() {
    return extents.leaveBeyond();
  }

  /** Whether another extent would spare work. */
  boolean wantsExtent() {
    return extents.wantsAnother();
  }

  /** Whether headers wait for room that cleaning cannot make. */
  boolean stuck() {
    return extents.stuck();
  }

  /** A span is gone, and with it all its headers. Any thread. */
  void dissolved(SlotSpan span) {
    dissolved.add(span);
  }

  // ---- appending

  /**
   * Appends the header of a slot whose payload has been written. {@link #start} must follow: it may
   * wait for those of other payloads that are being written.
   */
  void append(SlotHeader header, SlotSpan span, int index, int sum, Committed callback) {
    MemorySegment bytes = MemorySegment.ofArray(new long[HeaderRecord.length(header) / 8]);
    boolean refused;
    synchronized (this) {
      refused = failed;
      headersMissing |= refused;
      if (!refused) {
        HeaderRecord.encode(bytes, header, span, index, sum, nextSequence++);
        long digest = header.identity().digest();
        waiting.add(new Entry(bytes, span, index, digest, sum, 0, System.nanoTime(), callback));
        waitingBytes += (int) bytes.byteSize();
      }
    }
    if (refused) {
      callback.committed(Errno.EIO);
    }
  }

  /**
   * A payload was written, or in part, and its header was not: the slot's old one, which is in the
   * log still, may be wrong.
   */
  synchronized void headerMissing() {
    headersMissing = true;
  }

  /** Whether that was so of any. Known no later than {@link #quiet}. */
  synchronized boolean headersMissing() {
    return headersMissing;
  }

  /**
   * Appends a header once more if it still counts.
   *
   * @return whether it does; if not, the callback is not called
   */
  boolean move(HeaderRecord record, int fromPage, Committed callback) {
    SlotSpan span = space.spanAt(record.spanFirst());
    synchronized (this) {
      if (failed || !isLive(record, span, fromPage)) {
        return false;
      }
      MemorySegment copy = MemorySegment.ofArray(new long[record.length() / 8]);
      copy.copyFrom(record.bytes());
      moving.add(
          new Entry(
              copy,
              Objects.requireNonNull(span),
              record.index(),
              0,
              0,
              fromPage,
              System.nanoTime(),
              callback));
    }
    return true;
  }

  private static boolean isLive(HeaderRecord record, @Nullable SlotSpan span, int page) {
    return span != null
        && span.sequence == record.spanSequence()
        && record.index() < span.slots
        && span.headerPage(record.index()) == page
        // The page may also hold the header of a block that was in the slot before. That the slot
        // has been given back changes nothing: without its last header an older one would count.
        && span.sum(record.index()) == record.sum();
  }

  /** Writes what waits, if it is time. */
  void start(boolean evenOne) {
    List<Entry> entries = new ArrayList<>();
    List<Entry> overtaken = new ArrayList<>();
    LogExtent into;
    int first;
    int pages;
    synchronized (this) {
      wanted |= evenOne && !waiting.isEmpty(); // a write that is under way begins the next
      boolean due = wanted || waitingBytes >= HeaderPageDescriptor.RECORDS_BYTES;
      if (writing || failed || (moving.isEmpty() && (!due || waiting.isEmpty()))) {
        return;
      }
      into = extents.room(!moving.isEmpty());
      if (into == null) {
        wantsCleaning.run();
        return;
      }
      first = extents.nextPage();
      pages = fill(into, entries, overtaken);
      wanted &= !waiting.isEmpty();
      writing = pages > 0;
      extents.filled(pages);
      pagesWritten += pages;
      into.appended += entries.size();
    }
    overtaken.forEach(entry -> entry.callback().committed(0));
    if (pages > 0) {
      write(into, first, pages, entries);
    }
  }

  /** Call now and then: nothing waits longer than it must. */
  void tick(long nanos) {
    List<Entry> hopeless = new ArrayList<>();
    boolean due;
    synchronized (this) {
      Entry oldest = waiting.peek();
      due = oldest != null && nanos - oldest.nanos() > MAX_WAIT_NANOS;
      if (oldest != null && !writing && nanos - oldest.nanos() > MAX_STUCK_NANOS) {
        takeWaiting(hopeless);
        headersMissing = true;
      }
    }
    hopeless.forEach(entry -> entry.callback().committed(Errno.ENOSPC));
    if (due) {
      start(true);
    }
  }

  private void takeWaiting(List<Entry> into) {
    into.addAll(waiting);
    waiting.clear();
    waitingBytes = 0;
  }

  /**
   * Packs headers into the batch; returns the pages filled. Guarded.
   *
   * @param overtaken takes those that do not count any more and were to be moved: in an extent of a
   *     later use they would look newer than what overtook them
   */
  private int fill(LogExtent into, List<Entry> entries, List<Entry> overtaken) {
    int limit = Math.min(BATCH_PAGES, extents.pagesLeft());
    int first = extents.nextPage();
    int page = 0;
    for (; page < limit; page++) {
      MemorySegment target = batch.asSlice((long) page * PAGE, PAGE);
      int bytes = 0;
      int count = 0;
      Entry entry;
      while ((entry = nextThatFits(HeaderPageDescriptor.RECORDS_BYTES - bytes, overtaken))
          != null) {
        MemorySegment.copy(
            entry.bytes(),
            0,
            target,
            HeaderPageDescriptor.RECORDS_OFFSET + bytes,
            entry.bytes().byteSize());
        bytes += (int) entry.bytes().byteSize();
        count++;
        entries.add(entry);
        into.add(entry.span());
      }
      if (count == 0) {
        break;
      }
      long id = files.meta().directoryId;
      HeaderPageDescriptor.seal(target, id, into.use, into.extent, first + page, count, bytes);
      pageCounts[page] = count;
    }
    return page;
  }

  private @Nullable Entry nextThatFits(int room, List<Entry> overtaken) {
    while (!moving.isEmpty() && isOvertaken(moving.peek())) {
      overtaken.add(moving.poll());
    }
    boolean move = !moving.isEmpty();
    if (!move && extents.onlyMoves()) {
      return null;
    }
    Deque<Entry> from = move ? moving : waiting;
    Entry next = from.peek();
    if (next == null || next.bytes().byteSize() > room) {
      return null;
    }
    waitingBytes -= move ? 0 : (int) next.bytes().byteSize();
    return from.poll();
  }

  private static boolean isOvertaken(Entry move) {
    return move.span().isDissolved() || move.span().headerPage(move.index()) != move.movedFrom();
  }

  private void write(LogExtent into, int firstPage, int pages, List<Entry> entries) {
    long offset = into.extent * files.meta().extentBytes + (long) firstPage * PAGE;
    io.submit(
        new BlockOp(
            BlockOp.Urgency.META,
            true,
            files.fileOf(offset),
            files.within(offset),
            batch.address(),
            pages * PAGE) {
          @Override
          boolean begin() {
            return true;
          }

          @Override
          void done(int errno) {
            written(into, firstPage, pages, entries, errno);
          }
        });
  }

  private void written(LogExtent into, int firstPage, int pages, List<Entry> entries, int errno) {
    List<Entry> refused = new ArrayList<>();
    synchronized (this) {
      writing = false;
      if (errno == 0) {
        publish(into, firstPage, pages, entries);
      } else {
        failed = true;
        headersMissing = true;
        refused.addAll(moving);
        moving.clear();
        takeWaiting(refused);
      }
    }
    if (errno != 0) {
      failure.accept(errno);
    }
    entries.forEach(entry -> entry.callback().committed(errno));
    refused.forEach(entry -> entry.callback().committed(errno));
    start(false);
  }

  /** From here on the headers count. Guarded. */
  private void publish(LogExtent into, int firstPage, int pages, List<Entry> entries) {
    int next = 0;
    for (int page = 0; page < pages; page++) {
      int number = extents.pageNumber(into.extent, firstPage + page);
      for (int i = 0; i < pageCounts[page]; i++) {
        Entry entry = entries.get(next++);
        if (entry.span().isDissolved()) {
          continue; // while it was on its way
        }
        extents.forget(entry.span().headerPage(entry.index()));
        entry.span().setHeaderPage(entry.index(), number);
        into.live++;
        if (entry.movedFrom() == 0) {
          entry.span().setSum(entry.index(), entry.sum());
          entry.span().setIdentityDigest(entry.index(), entry.digest());
          space.proved(entry.span(), entry.index());
        }
      }
    }
  }

  int pageNumber(int extent, int page) {
    return extents.pageNumber(extent, page);
  }

  // ---- cleaning: the directory's care thread

  /** An extent to clean; null if none is needed or worth it. */
  synchronized LogExtents.@Nullable Victim victim() {
    SlotSpan span;
    while ((span = dissolved.poll()) != null) {
      extents.dissolve(span);
    }
    LogExtents.Victim chosen = failed ? null : extents.victim(writing);
    // Out of order older headers come to count, which may be wrong about their slots.
    headersMissing |= chosen != null && !chosen.inOrder();
    return chosen;
  }

  /** The cleaned extent may be used again: nothing in it counts. */
  void release(LogExtents.Victim victim) {
    synchronized (this) {
      extents.release(victim);
    }
    start(true);
  }

  /** The page that holds the header of a slot, 0 if there is none. */
  synchronized int headerPage(SlotSpan span, int index) {
    return span.headerPage(index);
  }

  /** Bytes of pages written since the start. */
  synchronized long bytesWritten() {
    return pagesWritten * PAGE;
  }

  /** Whether nothing waits and nothing is being written. */
  synchronized boolean quiet() {
    return !writing && (failed || (waiting.isEmpty() && moving.isEmpty()));
  }
}
