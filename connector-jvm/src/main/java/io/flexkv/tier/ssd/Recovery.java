package io.flexkv.tier.ssd;

import io.flexkv.tier.ssd.RecoverySink.Survivor;
import java.lang.System.Logger.Level;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.LongConsumer;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/**
 * Hands the survivors of all directories to the sink, parents before children. One thread.
 *
 * <p>The logs are read once more, all directories side by side, oldest headers first: a parent was
 * written before its children, so nearly every block can go on at once. One whose parent has
 * survived but has not been met yet waits for it in memory; one whose parent has not survived is
 * given up, and so is the second copy of a block.
 */
final class Recovery {
  private static final System.Logger LOG = System.getLogger(Recovery.class.getName());

  /** Blocks that wait for their parents; more are given up. */
  private static final int MAX_WAITING = 1 << 20;

  private final List<SsdDirectory> directories;
  private final RecoverySink sink;
  private final Predicate<SlotIdentity> wanted;
  private final LongConsumer giveUp;
  private final List<Survivor> batch = new ArrayList<>();
  private final Map<Long, List<Survivor>> waiting = new HashMap<>();
  private final Deque<Survivor> ready = new ArrayDeque<>();
  private @Nullable DigestSet present;
  private int waitingCount;
  private long offered;
  private long taken;
  private long dropped;
  private long bytesRead;

  /**
   * @param wanted whether a block may still be offered (its generation may have been raised since)
   * @param giveUp takes slots that nobody wants
   */
  Recovery(
      List<SsdDirectory> directories,
      RecoverySink sink,
      Predicate<SlotIdentity> wanted,
      LongConsumer giveUp) {
    this.directories = directories;
    this.sink = sink;
    this.wanted = wanted;
    this.giveUp = giveUp;
  }

  /** Where reading a directory's log has come to. */
  private static final class Cursor {
    final SsdDirectory directory;
    final DirectoryScan scan;
    final int[] extents;
    final long pages;
    int extent;
    int page;
    long done;

    Cursor(SsdDirectory directory, DirectoryScan scan) {
      this.directory = directory;
      this.scan = scan;
      this.extents = scan.extentsInOrder();
      long sum = 0;
      for (int e : extents) {
        sum += scan.pagesOf(e);
      }
      this.pages = sum;
    }

    double share() {
      return pages == 0 ? 1 : (double) done / pages;
    }
  }

  void run() {
    long begin = System.nanoTime();
    List<Cursor> cursors = new ArrayList<>();
    long survivors = 0;
    for (SsdDirectory directory : directories) {
      DirectoryScan scan = directory.scan();
      if (scan != null) {
        cursors.add(new Cursor(directory, scan));
        survivors += scan.survivors();
        dropped += scan.dropped();
        bytesRead += scan.bytesRead();
      }
    }
    try (Arena arena = Arena.ofShared()) {
      present = new DigestSet(survivors, arena);
      fillPresent(cursors);
      readAll(cursors, arena);
      offer();
      giveUpRest(cursors);
    } catch (InterruptedException e) {
      LOG.log(Level.INFO, "the recovery of SSD blocks was interrupted after {0} blocks", offered);
    } finally {
      directories.forEach(SsdDirectory::mayClean);
      sink.finished(
          new RecoverySink.Report(offered, taken, dropped, bytesRead, System.nanoTime() - begin));
    }
  }

  private DigestSet present() {
    return java.util.Objects.requireNonNull(present);
  }

  private void fillPresent(List<Cursor> cursors) {
    for (Cursor cursor : cursors) {
      for (SlotSpan span : cursor.scan.spans()) {
        for (int i = 0; i < span.slots; i++) {
          if (span.unproven[i] != 0) {
            present().add(span.identityDigests[i]);
          }
        }
      }
    }
  }

  private void readAll(List<Cursor> cursors, Arena arena) throws InterruptedException {
    MemorySegment chunk =
        arena.allocate((long) DirectoryScan.CHUNK_PAGES * SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
    while (true) {
      Cursor least = null;
      for (Cursor cursor : cursors) {
        if (cursor.extent < cursor.extents.length
            && (least == null || cursor.share() < least.share())) {
          least = cursor;
        }
      }
      if (least == null) {
        return;
      }
      readChunk(least, chunk);
    }
  }

  private void readChunk(Cursor cursor, MemorySegment chunk) throws InterruptedException {
    int extent = cursor.extents[cursor.extent];
    int pages = cursor.scan.pagesOf(extent);
    int count = Math.min(DirectoryScan.CHUNK_PAGES, pages - cursor.page);
    int errno = DirectoryScan.readPages(cursor.directory, extent, cursor.page, count, chunk);
    bytesRead += (long) count * SsdStore.PAGE_BYTES;
    for (int i = 0; i < count && errno == 0; i++) {
      MemorySegment page = chunk.asSlice((long) i * SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
      takePage(cursor, extent, cursor.page + i, page);
    }
    cursor.done += count;
    cursor.page += count;
    if (cursor.page >= pages) {
      cursor.extent++;
      cursor.page = 0;
    }
  }

  private void takePage(Cursor cursor, int extent, int index, MemorySegment page)
      throws InterruptedException {
    long id = cursor.directory.files().meta().directoryId;
    if (!HeaderPageDescriptor.valid(page, id, extent, index)) {
      return;
    }
    MemorySegment records = HeaderPageDescriptor.records(page);
    int number = cursor.directory.log().pageNumber(extent, index);
    HeaderRecord record;
    for (long at = 0; (record = HeaderRecord.at(records, at)) != null; at += record.length()) {
      SlotSpan span = cursor.scan.spanOf(record, number);
      if (span != null) {
        span.unproven[record.index()] &= ~DirectoryScan.NOT_OFFERED;
        take(cursor.directory, span, record);
      }
    }
  }

  private void take(SsdDirectory directory, SlotSpan span, HeaderRecord record)
      throws InterruptedException {
    int index = record.index();
    long slot = SlotNumber.of(directory.index(), span.offset(index), span.generation(index));
    Survivor survivor = new Survivor(slot, record.header());
    SlotIdentity identity = survivor.header().identity();
    if (!wanted.test(identity) || present().isMarked(identity.digest())) {
      giveUp(survivor);
      return;
    }
    long parent = parentOf(survivor);
    if (parent != 0 && !present().contains(parent)) {
      giveUp(survivor);
    } else if (parent != 0 && !present().isMarked(parent)) {
      await(parent, survivor);
    } else {
      pass(survivor);
    }
  }

  /** Digest of the parent's identity, 0 if there is none. */
  private static long parentOf(Survivor survivor) {
    SlotHeader header = survivor.header();
    return header.hasParent()
        ? header.identity().withKey(header.parentHi(), header.parentLo()).digest()
        : 0;
  }

  private void await(long parent, Survivor survivor) {
    if (waitingCount == MAX_WAITING) {
      giveUp(survivor);
      return;
    }
    waitingCount++;
    waiting.computeIfAbsent(parent, digest -> new ArrayList<>(1)).add(survivor);
  }

  /** Offers a block, and then those that waited for it. */
  private void pass(Survivor first) throws InterruptedException {
    ready.add(first);
    Survivor survivor;
    while ((survivor = ready.poll()) != null) {
      long digest = survivor.header().identity().digest();
      if (present().isMarked(digest)) {
        giveUp(survivor); // the same block twice
        continue;
      }
      present().mark(digest);
      batch.add(survivor);
      if (batch.size() == RecoverySink.MAX_BATCH) {
        offer();
      }
      List<Survivor> children = waiting.remove(digest);
      if (children != null) {
        waitingCount -= children.size();
        ready.addAll(children);
      }
    }
  }

  private void giveUp(Survivor survivor) {
    dropped++;
    giveUp.accept(survivor.slot());
  }

  private void offer() throws InterruptedException {
    if (batch.isEmpty()) {
      return;
    }
    BitSet accepted = sink.offer(List.copyOf(batch));
    for (int i = 0; i < batch.size(); i++) {
      if (!accepted.get(i)) {
        giveUp.accept(batch.get(i).slot());
      }
    }
    offered += batch.size();
    taken += accepted.cardinality();
    batch.clear();
  }

  /** Those whose parents never came, and those whose headers could not be read again. */
  private void giveUpRest(List<Cursor> cursors) {
    waiting.values().forEach(list -> list.forEach(this::giveUp));
    waiting.clear();
    for (Cursor cursor : cursors) {
      int directory = cursor.directory.index();
      for (SlotSpan span : cursor.scan.spans()) {
        for (int i = 0; i < span.slots; i++) {
          if ((span.unproven[i] & DirectoryScan.NOT_OFFERED) != 0) {
            span.unproven[i] = 0;
            dropped++;
            giveUp.accept(SlotNumber.of(directory, span.offset(i), span.generation(i)));
          }
        }
      }
    }
  }
}
