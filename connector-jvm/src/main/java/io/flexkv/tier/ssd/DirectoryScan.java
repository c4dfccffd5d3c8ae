package io.flexkv.tier.ssd;

import static java.lang.foreign.ValueLayout.JAVA_LONG;

import io.flexkv.ffm.Errno;
import java.lang.System.Logger.Level;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * What the header log of a directory says at a start.
 *
 * <p>All pages are read once. Of a slot's headers the one with the greatest sequence counts, also
 * where it is void (an older generation) and leaves the slot empty. Of spans that overlap, the
 * later one counts. What is wrong after that (a header whose payload was overwritten before the
 * end) is found by the checksum when the block is read.
 */
final class DirectoryScan {
  private static final System.Logger LOG = System.getLogger(DirectoryScan.class.getName());

  /**
   * More numbers than a life gives out. Each begins so far above what is known of the last one, for
   * headers with its greatest may be lost, and come back: they lay beyond the end of a directory
   * that has become smaller, or could not be read. What was written later must be greater.
   */
  private static final long NUMBERS_OF_A_LIFE = 1L << 40;

  /** Pages that cleaning an extent may leave partly empty, besides those it fills. */
  private static final int PADDED_PAGES = 8;

  /** Marks of slots: found at an unclean end and not verified since. */
  static final byte UNPROVEN = 1;

  /** Found at a start, and not handed out yet. */
  static final byte NOT_OFFERED = 2;

  private static final class Found {
    final SlotSpan span;

    /** By slot: sequence of the header that counts. */
    final MemorySegment sequences;

    long lastWritten;

    Found(SlotSpan span, Arena arena) {
      this.span = span;
      this.sequences = arena.allocate((long) span.slots * Long.BYTES, Long.BYTES);
    }

    SlotSpan span() {
      return span;
    }
  }

  /** A log extent: the use of its valid pages, headers in them, and the page after the last. */
  private static final class FoundExtent {
    final int extent;
    long use;
    int headers;
    int live;
    int livePages;
    int nextPage;

    /** Extents of the directory for whose slots it has headers. */
    final BitSet places = new BitSet();

    /** Pages are written in order: behind a stretch without any there is none. */
    boolean ended;

    FoundExtent(int extent) {
      this.extent = extent;
    }
  }

  /** Which generation of a namespace counts; records of one come one after another. */
  private final class OldestGenerations {
    private long hi;
    private long lo;
    private int generation = -1;

    int of(HeaderRecord record) {
      if (generation < 0 || record.digestHi() != hi || record.digestLo() != lo) {
        hi = record.digestHi();
        lo = record.digestLo();
        generation = meta.generations.getOrDefault(new DirectoryMeta.Digest(hi, lo), 0);
      }
      return generation;
    }
  }

  private final SsdDirectory directory;

  /** Of what only reading and placing need. */
  private final Arena arena;

  private final DirectoryFiles files;
  private final DirectoryMeta meta;
  private final Map<Long, Found> bySequence = new HashMap<>();
  private final List<FoundExtent> extents = new ArrayList<>();
  private final List<SlotSpan> spans = new ArrayList<>();
  private final OldestGenerations oldestGenerations = new OldestGenerations();
  private final HeaderRecord record = new HeaderRecord();

  /** The span of the record before, which is that of the next one as a rule. */
  private @Nullable Found latest;

  private long lastSequence;
  private long lastUse;
  private long dropped;
  private long bytesRead;
  private long survivors;
  private long unproven;

  /** Whether headers could not be read: later ones than those that could, perhaps. */
  private boolean unread;

  private DirectoryScan(SsdDirectory directory, Arena arena) {
    this.directory = directory;
    this.arena = arena;
    this.files = directory.files();
    this.meta = files.meta();
  }

  /** Reads the log and puts what survived in its place. The directory's care thread. */
  static DirectoryScan run(SsdDirectory directory) {
    DirectoryScan scan;
    try (Arena arena = Arena.ofConfined()) {
      scan = new DirectoryScan(directory, arena);
      scan.read();
      scan.place();
    }
    scan.restoreLog();
    LOG.log(
        Level.INFO,
        "SSD directory {0}: attached, {1} blocks in {2} MiB of headers, {3} dropped ({4}; {5} were"
            + " stored before an unclean end, or before it became smaller, and not verified since)",
        directory.path(),
        scan.survivors,
        scan.bytesRead >> 20,
        scan.dropped,
        ending(scan.files),
        scan.unproven);
    return scan;
  }

  /** How its last sidecar left it, for people. */
  static String ending(DirectoryFiles files) {
    if (!files.endedCleanly()) {
      return "did not end cleanly";
    }
    return files.meta().clean ? "ended cleanly" : "ended cleanly, is smaller now";
  }

  // ---- reading

  private void read() {
    meta.logExtents.stream().forEach(extent -> extents.add(new FoundExtent(extent)));
    int pages = directory.log().pagesPerExtent();
    int asked = 0;
    int page = 0;
    int taken = 0;
    try (LogReader reader = new LogReader(directory)) {
      while (taken < extents.size()) {
        while (asked < extents.size() && reader.hasRoom()) {
          FoundExtent next = extents.get(asked);
          int count = next.ended ? 0 : Math.min(LogReader.CHUNK_PAGES, pages - page);
          if (count > 0) {
            reader.ask(next.extent, page, count);
          }
          page += count;
          if (count == 0 || page == pages) {
            asked++;
            page = 0;
          }
        }
        if (reader.isEmpty()) {
          break;
        }
        LogReader.Chunk chunk = reader.next();
        while (extents.get(taken).extent != chunk.extent()) {
          taken++;
        }
        takeChunk(extents.get(taken), chunk);
      }
    }
    directory
        .log()
        .startAfter(
            Math.max(lastSequence, meta.sequences) + NUMBERS_OF_A_LIFE,
            Math.max(lastUse, meta.uses) + NUMBERS_OF_A_LIFE);
    if (!meta.clean || unread) {
      meta.doubtBelow = lastSequence + 1;
    }
    if (unread) {
      directory.log().headerMissing(); // later ones than these, perhaps, and back at the next start
    }
  }

  private void takeChunk(FoundExtent found, LogReader.Chunk chunk) {
    bytesRead += (long) chunk.count() * SsdStore.PAGE_BYTES;
    if (found.ended) {
      return; // asked for before that was known
    }
    if (chunk.errno() != 0) {
      unread = true;
      LOG.log(
          Level.WARNING,
          "SSD directory {0}: headers in extent {1} cannot be read ({2})",
          directory.path(),
          found.extent,
          Errno.describe(chunk.errno()));
      return;
    }
    int before = found.nextPage;
    for (int i = 0; i < chunk.count(); i++) {
      takePage(found, chunk.first() + i, chunk.page(i));
    }
    found.ended = found.nextPage == before;
  }

  /** Reads pages of an extent; returns 0 or an error number. */
  static int readPages(
      SsdDirectory directory, int extent, int first, int count, MemorySegment into) {
    DirectoryFiles files = directory.files();
    long offset = extent * files.meta().extentBytes + (long) first * SsdStore.PAGE_BYTES;
    return BlockingAccess.run(
        directory.io(),
        BlockOp.Urgency.META,
        false,
        files.fileOf(offset),
        files.within(offset),
        into.address(),
        count * SsdStore.PAGE_BYTES);
  }

  private void takePage(FoundExtent found, int index, MemorySegment page) {
    if (!HeaderPageDescriptor.valid(page, meta.directoryId, found.extent, index)) {
      return;
    }
    long use = HeaderPageDescriptor.use(page);
    if (use < found.use) {
      return; // left over from an earlier use of the extent
    }
    found.use = use;
    lastUse = Math.max(lastUse, use);
    if (HeaderPageDescriptor.count(page) == 0) {
      return; // struck out when the extent had been cleaned
    }
    found.nextPage = index + 1;
    MemorySegment records = HeaderPageDescriptor.records(page);
    int number = directory.log().pageNumber(found.extent, index);
    for (long at = 0; record.wrap(records, at); at += record.length()) {
      found.headers++;
      lastSequence = Math.max(lastSequence, Math.max(record.sequence(), record.spanSequence()));
      Found span = spanOfRecord();
      if (span == null) {
        dropped++;
      } else {
        found.places.set(span.span.firstExtent, span.span.firstExtent + span.span.extents);
        takeRecord(span, number);
      }
    }
  }

  private void takeRecord(Found found, int page) {
    SlotSpan span = found.span;
    int index = record.index();
    long sequence = record.sequence();
    if (span.firstExtent != record.spanFirst()
        || span.stride != record.stride()
        || index >= span.slots
        || sequence < found.sequences.getAtIndex(JAVA_LONG, index)) {
      return;
    }
    found.sequences.setAtIndex(JAVA_LONG, index, sequence);
    found.lastWritten = Math.max(found.lastWritten, sequence);
    boolean isVoid = isVoid();
    span.setIdentityDigest(index, isVoid ? 0 : record.identityDigest());
    span.setSum(index, record.sum());
    span.setHeaderPage(index, isVoid ? 0 : page);
    if (meta.clean && sequence >= meta.doubtBelow) {
      span.unmark(index, UNPROVEN);
    } else {
      span.mark(index, UNPROVEN);
    }
    dropped += isVoid ? 1 : 0;
  }

  /** The span that the record names; null if it cannot be one of this directory. */
  private @Nullable Found spanOfRecord() {
    long sequence = record.spanSequence();
    if (latest != null && latest.span.sequence == sequence) {
      return latest;
    }
    Found found = bySequence.get(sequence);
    if (found == null) {
      if (!fits()) {
        return null;
      }
      found =
          new Found(
              new SlotSpan(
                  record.spanFirst(),
                  record.spanExtents(),
                  meta.extentBytes,
                  record.stride(),
                  sequence,
                  0),
              arena);
      bySequence.put(sequence, found);
    }
    latest = found;
    return found;
  }

  private boolean fits() {
    int first = record.spanFirst();
    long end = (long) first + record.spanExtents();
    int perFile = files.extentsPerFile();
    return first >= 0
        && end <= meta.extents
        && !meta.isCut(end, record.spanSequence())
        && first / perFile == (end - 1) / perFile
        && record.stride() <= record.spanExtents() * meta.extentBytes;
  }

  private boolean isVoid() {
    return record.sequence() < meta.floor || record.generation() < oldestGenerations.of(record);
  }

  // ---- placing

  private void place() {
    BitSet taken = (BitSet) meta.logExtents.clone();
    List<Found> latestFirst = new ArrayList<>(bySequence.values());
    latestFirst.sort(Comparator.comparingLong((Found found) -> found.span.sequence).reversed());
    bySequence.clear();
    latest = null;
    List<Found> placed = new ArrayList<>();
    for (Found found : latestFirst) {
      SlotSpan span = found.span;
      int clash = taken.nextSetBit(span.firstExtent);
      if (clash >= 0 && clash < span.firstExtent + span.extents) {
        dropped += count(span);
      } else if (count(span) > 0) {
        taken.set(span.firstExtent, span.firstExtent + span.extents);
        placed.add(found);
      }
    }
    placed.sort(Comparator.comparingLong((Found found) -> found.lastWritten).reversed());
    placed.stream().map(Found::span).forEach(spans::add);
    countLive();
    reserveForLog(taken);
    meta.logExtents.stream().forEach(directory.space()::claimForLog);
    for (SlotSpan span : spans) {
      restore(span);
    }
    directory.space().unproven(unproven);
  }

  private static long count(SlotSpan span) {
    long count = 0;
    for (int i = 0; i < span.slots; i++) {
      count += span.identityDigest(i) == 0 ? 0 : 1;
    }
    return count;
  }

  private void countLive() {
    int pages = directory.log().pagesPerExtent();
    @Nullable FoundExtent[] byExtent = new @Nullable FoundExtent[meta.extents];
    extents.forEach(found -> byExtent[found.extent] = found);
    PageSet livePages = new PageSet(pages);
    for (SlotSpan span : spans) {
      for (int i = 0; i < span.slots; i++) {
        int page = span.headerPage(i);
        if (page != 0) {
          FoundExtent found = Objects.requireNonNull(byExtent[(page - 1) / pages]);
          found.live++;
          found.livePages += livePages.add(page) ? 1 : 0;
        }
      }
    }
    extents.sort(Comparator.comparingLong(found -> found.use));
  }

  /** The extent that was appended to last: of those with headers the one of the latest use. */
  private FoundExtent last() {
    return extents.stream()
        .filter(found -> found.headers > 0)
        .reduce((earlier, later) -> later)
        .orElse(extents.getLast());
  }

  /** Whether nothing in an extent counts, so that it may be written anew. */
  private boolean isFree(FoundExtent found) {
    return found.live == 0 && (found.headers == 0 || found.extent != last().extent);
  }

  /**
   * The log needs an extent to write to, or room enough in the last one to clean another. If there
   * is neither, nor a free extent, the span that was written to least recently gives way.
   */
  private void reserveForLog(BitSet taken) {
    int room = directory.log().pagesPerExtent() - last().nextPage;
    int least =
        extents.stream()
            .filter(found -> found.extent != last().extent)
            .mapToInt(found -> found.livePages)
            .min()
            .orElse(Integer.MAX_VALUE - PADDED_PAGES);
    if (extents.stream().anyMatch(this::isFree) || room >= least + PADDED_PAGES) {
      return;
    }
    int extent = taken.nextClearBit(0);
    if (extent >= meta.extents) {
      SlotSpan oldest = spans.removeLast();
      LOG.log(
          Level.INFO,
          "SSD directory {0}: {1} blocks give way to the header log",
          directory.path(),
          count(oldest));
      dropped += count(oldest);
      extent = oldest.firstExtent;
    }
    meta.logExtents.set(extent);
    extents.addFirst(new FoundExtent(extent));
  }

  private void restore(SlotSpan span) {
    for (int index = 0; index < span.slots; index++) {
      if (span.identityDigest(index) != 0) {
        span.takeAt(index);
        span.mark(index, unread ? NOT_OFFERED | UNPROVEN : NOT_OFFERED);
        survivors++;
        unproven += span.isMarked(index, UNPROVEN) ? 1 : 0;
      }
    }
    directory.space().restore(span);
  }

  private void restoreLog() {
    // Others of which nothing counts are for the cleaner to take in their turn, and to strike out.
    List<FoundExtent> free = extents.stream().filter(found -> found.headers == 0).toList();
    extents.removeAll(free);
    for (FoundExtent found : extents) {
      LogExtent restored = new LogExtent(found.extent, found.use, found.places);
      restored.appended = found.headers;
      restored.live = found.live;
      directory.log().restore(restored, found.nextPage);
    }
    free.forEach(found -> directory.log().grant(found.extent));
  }

  // ---- for the one who hands the survivors out

  /** Extents with headers that count, oldest first. */
  int[] extentsInOrder() {
    return extents.stream()
        .filter(found -> found.live > 0)
        .mapToInt(found -> found.extent)
        .toArray();
  }

  /** Pages of an extent that may hold headers. */
  int pagesOf(int extent) {
    for (FoundExtent found : extents) {
      if (found.extent == extent) {
        return found.nextPage;
      }
    }
    return 0;
  }

  List<SlotSpan> spans() {
    return spans;
  }

  long survivors() {
    return survivors;
  }

  long dropped() {
    return dropped;
  }

  long bytesRead() {
    return bytesRead;
  }

  /** The slot that a header counts for, null if it does not count. */
  @Nullable SlotSpan spanOf(HeaderRecord header, int page) {
    SlotSpan span = directory.space().spanAt(header.spanFirst());
    boolean counts =
        span != null
            && span.sequence == header.spanSequence()
            && header.index() < span.slots
            && span.headerPage(header.index()) == page
            // A page may hold an earlier header of the same slot too, which cleaning had moved.
            && span.identityDigest(header.index()) == header.identityDigest()
            && span.isMarked(header.index(), NOT_OFFERED);
    return counts ? span : null;
  }
}
