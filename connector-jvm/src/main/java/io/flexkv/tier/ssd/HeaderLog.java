package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
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
 * LogCleaner}). Of the free extents one is for the cleaner alone, so it always ends, and one is not
 * used before the next start, which finds more that counts than there was: blocks that had been
 * given back.
 *
 * <p><b>A smaller directory.</b> The log moves to extents before its end as it gets some: never
 * fewer than it needs to be cleaned with. Then those beyond are cleaned first, whatever counts in
 * them ({@link #resize}).
 *
 * <p>Thread-safe; {@code headerPage} of all spans is guarded by this object.
 */
final class HeaderLog {
  static final int BATCH_PAGES = 16;
  static final long MAX_WAIT_NANOS = 20_000_000;

  /** How long a header waits for a place in a log that is full. */
  static final long MAX_STUCK_NANOS = 2_000_000_000L;

  /** An extent is worth cleaning if it gets this share of its headers rid of. */
  private static final double WORTH_CLEANING = 0.1;

  /** Free extents that are not for new headers: the cleaner's and the next start's. */
  private static final int RESERVED = 2;

  /** Shares of live headers above which the log asks for another extent. */
  private static final double CROWDED = 0.5;

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
  private final int pagesPerExtent;
  private final MemorySegment batch;

  /** How many headers each page of the batch holds. */
  private final int[] pageCounts = new int[BATCH_PAGES];

  private final Deque<Entry> waiting = new ArrayDeque<>();
  private final Deque<Entry> moving = new ArrayDeque<>();
  private final Deque<Integer> freeExtents = new ArrayDeque<>();
  private @Nullable LogExtent[] byExtent;

  /** Extents of the directory. */
  private int end;

  private final Queue<SlotSpan> dissolved = new ConcurrentLinkedQueue<>();
  private @Nullable LogExtent current;
  private int nextPage;
  private long nextUse = 1;
  private long nextSequence = 1;
  private int waitingBytes;
  private boolean writing;

  /** What waits goes with the next write, be it one header. */
  private boolean wanted;

  private boolean failed;
  private boolean headersMissing;
  private long pagesWritten;
  private volatile boolean wantsExtent;
  private volatile boolean stuck;

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
    this.pagesPerExtent = (int) (files.meta().extentBytes / PAGE);
    this.batch = arena.allocate((long) BATCH_PAGES * PAGE, PAGE);
    this.end = files.meta().extents;
    this.byExtent = new LogExtent[end];
  }

  int pagesPerExtent() {
    return pagesPerExtent;
  }

  // ---- setting up: the recovery's thread, before anything is appended

  /** Numbers of what is there; new ones are greater. */
  synchronized void startAfter(long sequence, long use) {
    nextSequence = Math.max(nextSequence, sequence + 1);
    nextUse = Math.max(nextUse, use + 1);
  }

  /**
   * An extent that holds headers. The one of the latest use is appended to.
   *
   * @param next the page after its last valid one
   */
  synchronized void restore(LogExtent restored, int next) {
    byExtent[restored.extent] = restored;
    if (current == null || restored.use > current.use) {
      current = restored;
      nextPage = next;
    }
  }

  /** A number greater than all given out before. */
  synchronized long nextSequence() {
    return nextSequence++;
  }

  /** A number greater than those of all uses of extents before. */
  synchronized long nextUse() {
    return nextUse++;
  }

  // ---- extents

  /** An empty extent, already noted in the directory's description. */
  void grant(int extent) {
    synchronized (this) {
      freeExtents.add(extent);
      wantsExtent = false;
      stuck = false;
    }
    start(true);
  }

  /**
   * The directory ends here from now on.
   *
   * @return extents before the end that the log needs, to leave those beyond it
   */
  synchronized int resize(int extents) {
    end = extents;
    if (end > byExtent.length) {
      byExtent = Arrays.copyOf(byExtent, end);
    }
    return leavesEnd() ? usedBeyond() + Math.max(0, RESERVED + 1 - freeBefore()) : 0;
  }

  /** Free extents before the end. Guarded. */
  private int freeBefore() {
    return (int) freeExtents.stream().filter(extent -> extent < end).count();
  }

  /** Extents beyond the end that are not empty. Guarded. */
  private int usedBeyond() {
    int used = 0;
    for (int extent = end; extent < byExtent.length; extent++) {
      used += byExtent[extent] == null ? 0 : 1;
    }
    return used;
  }

  /** Whether the log has anything beyond the end. Guarded. */
  private boolean leavesEnd() {
    return usedBeyond() > 0 || freeExtents.size() > freeBefore();
  }

  /** Whether it needs nothing beyond the end any more. */
  synchronized boolean vacant() {
    return !leavesEnd() || (usedBeyond() == 0 && freeBefore() >= RESERVED);
  }

  /** Takes no extent beyond the end from now on; false if it uses one there. */
  synchronized boolean leaveBeyond() {
    boolean vacant = vacant();
    if (vacant) {
      freeExtents.removeIf(extent -> extent >= end);
    }
    return vacant;
  }

  /** Whether another extent would spare work. */
  boolean wantsExtent() {
    return wantsExtent;
  }

  /** Whether headers wait for room that cleaning cannot make. */
  boolean stuck() {
    return stuck;
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
      into = room();
      if (into == null) {
        wantsCleaning.run();
        return;
      }
      first = nextPage;
      pages = fill(into, entries, overtaken);
      wanted &= !waiting.isEmpty();
      writing = pages > 0;
      nextPage += pages;
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

  /** The extent to append to, null if there is none for what waits. Guarded. */
  private @Nullable LogExtent room() {
    if (current == null || nextPage == pagesPerExtent || mayLeave(current)) {
      Integer extent = onlyMoves() && moving.isEmpty() ? null : takeFree();
      if (extent == null) {
        return null;
      }
      current = new LogExtent(extent, nextUse++);
      byExtent[extent] = current;
      nextPage = 0;
    }
    return onlyMoves() && moving.isEmpty() ? null : current;
  }

  /** One before the end, if there is one. Guarded. */
  private @Nullable Integer takeFree() {
    for (Integer extent : freeExtents) {
      if (extent < end) {
        freeExtents.remove(extent);
        return extent;
      }
    }
    return freeExtents.poll();
  }

  /** Whether an extent lies beyond the end, and there are enough before it. Guarded. */
  private boolean mayLeave(LogExtent extent) {
    return extent.extent >= end && freeBefore() > RESERVED;
  }

  /** Whether what is left is the cleaner's. Guarded. */
  private boolean onlyMoves() {
    return freeExtents.size() < RESERVED;
  }

  /**
   * Packs headers into the batch; returns the pages filled. Guarded.
   *
   * @param overtaken takes those that do not count any more and were to be moved: in an extent of a
   *     later use they would look newer than what overtook them
   */
  private int fill(LogExtent into, List<Entry> entries, List<Entry> overtaken) {
    int limit = Math.min(BATCH_PAGES, pagesPerExtent - nextPage);
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
      HeaderPageDescriptor.seal(target, id, into.use, into.extent, nextPage + page, count, bytes);
      pageCounts[page] = count;
    }
    return page;
  }

  private @Nullable Entry nextThatFits(int room, List<Entry> overtaken) {
    while (!moving.isEmpty() && isOvertaken(moving.peek())) {
      overtaken.add(moving.poll());
    }
    boolean move = !moving.isEmpty();
    if (!move && onlyMoves()) {
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
      int number = pageNumber(into.extent, firstPage + page);
      for (int i = 0; i < pageCounts[page]; i++) {
        Entry entry = entries.get(next++);
        if (entry.span().isDissolved()) {
          continue; // while it was on its way
        }
        forget(entry.span().headerPage(entry.index()));
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

  private void forget(int page) {
    LogExtent extent = page == 0 ? null : byExtent[(page - 1) / pagesPerExtent];
    if (extent != null && extent.live > 0) {
      extent.live--;
    }
  }

  int pageNumber(int extent, int page) {
    return extent * pagesPerExtent + page + 1;
  }

  // ---- cleaning: the directory's care thread

  /** An extent to clean, with the number of its use; null if none is needed or worth it. */
  synchronized @Nullable Victim victim() {
    forgetDissolved();
    if (failed) {
      return null;
    }
    LogExtent last = lastBeyond();
    if (last != null && freeBefore() >= RESERVED) {
      // All of it may count: with what pages lose to rounding it may need more than an extent.
      return victim(last, LogExtent.inOrder(used()));
    }
    boolean moves = leavesEnd() && freeBefore() <= RESERVED;
    if (freeExtents.size() > RESERVED) {
      wantsExtent |= moves;
      return null;
    }
    List<LogExtent> all = used();
    List<LogExtent> inOrder = LogExtent.inOrder(all);
    LogExtent best = emptiest(inOrder);
    if (best == null || best.share() > 1 - WORTH_CLEANING) {
      best = emptiest(all);
    }
    if (best == null || best.share() > 1 - WORTH_CLEANING) {
      wantsExtent = true;
      stuck = onlyMoves();
      return null;
    }
    wantsExtent = moves || best.share() > CROWDED;
    return victim(best, inOrder);
  }

  /** Extents that are not empty. Guarded. */
  private List<LogExtent> used() {
    return Arrays.stream(byExtent).filter(Objects::nonNull).toList();
  }

  /** Out of order older headers come to count, which may be wrong about their slots. Guarded. */
  private Victim victim(LogExtent chosen, List<LogExtent> inOrder) {
    headersMissing |= !inOrder.contains(chosen);
    return new Victim(chosen.extent, chosen.use);
  }

  /** The one of which least counts, but the one that is appended to. Guarded. */
  private @Nullable LogExtent emptiest(List<LogExtent> extents) {
    return extents.stream()
        .filter(extent -> extent != current)
        .min(Comparator.comparingDouble(LogExtent::share))
        .orElse(null);
  }

  /** Guarded. */
  private void forgetDissolved() {
    SlotSpan span;
    while ((span = dissolved.poll()) != null) {
      for (int i = 0; i < span.slots; i++) {
        forget(span.headerPage(i));
      }
      span.setDissolved();
      for (LogExtent extent : byExtent) {
        if (extent != null) {
          extent.dissolve(span);
        }
      }
    }
  }

  /** An extent beyond the end that is not empty and not appended to, or null. Guarded. */
  private @Nullable LogExtent lastBeyond() {
    if (current != null && !writing && mayLeave(current)) {
      current = null;
    }
    for (int extent = byExtent.length - 1; extent >= end; extent--) {
      if (byExtent[extent] != null && byExtent[extent] != current) {
        return byExtent[extent];
      }
    }
    return null;
  }

  /** An extent that is being cleaned. */
  record Victim(int extent, long use) {}

  /** The cleaned extent may be used again: nothing in it counts. */
  void release(Victim victim) {
    synchronized (this) {
      byExtent[victim.extent()] = null;
      freeExtents.add(victim.extent());
      stuck = false;
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
