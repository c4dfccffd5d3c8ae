package io.flexkv.tier.ssd;

import java.util.ArrayList;
import java.util.BitSet;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.SequencedSet;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReferenceArray;
import java.util.function.Consumer;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/**
 * The extents of one directory: each is free, part of a span of slots, or the header log's. One
 * thread changes it (the recovery's, then the cache thread); {@link #spanAt} is for all.
 *
 * <p>A space that is made shorter has spans beyond its end that are held still: they are
 * <em>leaving</em>, give out nothing and come back to nobody.
 */
final class DirectorySpace {
  /** A span may leave 1/32 of itself unused, if a longer one does not do better. */
  private static final long WASTE_DIVISOR = 32;

  private static final int MAX_EXTRA_EXTENTS = 32;

  private final int directory;
  private final long extentBytes;
  private final int extentsPerFile;
  private final LongSupplier sequence;
  private final BitSet free;

  /** The header log's; those that it has given back beyond the end are its until that is noted. */
  private final BitSet logs = new BitSet();

  /** Where the space ends. */
  private volatile int extents;

  /** Where spans end: the rest is kept for a header log that moves here from beyond the end. */
  private int limit;

  /** Longer than the space where that was longer; replaced by a longer one when it grows. */
  private volatile AtomicReferenceArray<@Nullable SlotSpan> spans;

  /** Spans beyond the limit in which somebody holds a slot. */
  private final AtomicInteger leaving = new AtomicInteger();

  /** By slot size: spans that have a free slot. */
  private final Map<Long, SequencedSet<SlotSpan>> open = new HashMap<>();

  /** Blocks of an unclean end whose bytes nobody has verified or replaced since. */
  private final AtomicLong unproven = new AtomicLong();

  private long usedBytes;
  private int salt;

  /**
   * @param sequence gives each span its number
   * @param salt any number, another one each time that a directory is opened in one life
   */
  DirectorySpace(
      int directory,
      int extents,
      long extentBytes,
      int extentsPerFile,
      LongSupplier sequence,
      long salt) {
    this.salt = (int) (salt & (SlotNumber.GENERATIONS / 2 - 1));
    this.directory = directory;
    this.extents = extents;
    this.limit = extents;
    this.extentBytes = extentBytes;
    this.extentsPerFile = extentsPerFile;
    this.sequence = sequence;
    this.free = new BitSet(extents);
    free.set(0, extents);
    this.spans = new AtomicReferenceArray<>(extents);
  }

  long usedBytes() {
    return usedBytes;
  }

  /** So many blocks were found after an unclean end. */
  void unproven(long blocks) {
    unproven.set(blocks);
  }

  /** A slot's bytes are those of its header: they verified, or both are new. Any thread. */
  void proved(SlotSpan span, int index) {
    synchronized (span) {
      if (span.isMarked(index, DirectoryScan.UNPROVEN)) {
        unproven.decrementAndGet();
      }
      span.unmark(index, DirectoryScan.UNPROVEN | DirectoryScan.NOT_OFFERED);
    }
  }

  /**
   * Whether every header from before an unclean end has been verified or replaced. One that was
   * given back without may be wrong: its slot is free, but it stands in the log as long as nothing
   * takes its place. Any thread.
   */
  boolean proven() {
    return unproven.get() == 0;
  }

  int extents() {
    return extents;
  }

  /** The span that an extent belongs to, null if none. Any thread. */
  @Nullable SlotSpan spanAt(int extent) {
    AtomicReferenceArray<@Nullable SlotSpan> now = spans;
    return extent >= 0 && extent < now.length() ? now.get(extent) : null;
  }

  /** The span of a byte of the directory. Any thread. */
  @Nullable SlotSpan spanAtByte(long offset) {
    return spanAt((int) Math.min(offset / extentBytes, Integer.MAX_VALUE));
  }

  /** Takes an extent for the header log; -1 if none is free. */
  int takeExtent() {
    int extent = free.nextSetBit(0);
    if (extent >= 0) {
      free.clear(extent);
      logs.set(extent);
    }
    return extent;
  }

  /** Marks an extent that the log has already. */
  void claimForLog(int extent) {
    claim(extent);
    logs.set(extent);
  }

  private void claim(int extent) {
    if (!free.get(extent)) {
      throw new IllegalStateException("extent " + extent + " is claimed twice");
    }
    free.clear(extent);
  }

  /** Takes a slot of a size that is a multiple of a page, or answers FULL. */
  long allocate(long stride) {
    SequencedSet<SlotSpan> candidates = open.computeIfAbsent(stride, s -> new LinkedHashSet<>());
    if (candidates.isEmpty() && !addSpan(stride, candidates)) {
      open.remove(stride);
      return SsdStore.FULL;
    }
    SlotSpan span = candidates.getFirst();
    int index = span.take();
    if (span.full()) {
      candidates.remove(span);
    }
    usedBytes += stride;
    return SlotNumber.of(directory, span.offset(index), span.generation(index));
  }

  private boolean addSpan(long stride, SequencedSet<SlotSpan> candidates) {
    int least = Math.toIntExact((stride + extentBytes - 1) / extentBytes);
    for (int length = bestLength(stride, least); length >= least; length--) {
      int first = findRun(length);
      if (first >= 0) {
        // Another number at the same place than the span before it had.
        salt = (salt + 1) % (SlotNumber.GENERATIONS / 2);
        SlotSpan span =
            new SlotSpan(first, length, extentBytes, stride, sequence.getAsLong(), salt);
        place(span);
        candidates.add(span);
        return true;
      }
    }
    return false;
  }

  /** Puts a span where its extents are free. */
  private void place(SlotSpan span) {
    for (int extent = span.firstExtent; extent < span.firstExtent + span.extents; extent++) {
      claim(extent);
      spans.set(extent, span);
    }
  }

  /** The first of so many free extents of one file, or -1. */
  private int findRun(int length) {
    int first = free.nextSetBit(0);
    while (first >= 0) {
      int end = free.nextClearBit(first);
      int fileEnd = (first / extentsPerFile + 1) * extentsPerFile;
      if (Math.min(Math.min(end, fileEnd), limit) - first >= length) {
        return first;
      }
      first = free.nextSetBit(Math.min(end, fileEnd));
    }
    return -1;
  }

  private int bestLength(long stride, int least) {
    int best = least;
    double bestWaste = 1;
    for (int length = least; length <= least + MAX_EXTRA_EXTENTS; length++) {
      long bytes = length * extentBytes;
      long waste = bytes % stride;
      if (waste * WASTE_DIVISOR <= bytes) {
        return length;
      }
      if ((double) waste / bytes < bestWaste) {
        best = length;
        bestWaste = (double) waste / bytes;
      }
    }
    return best;
  }

  /**
   * The span of a slot that is held.
   *
   * @throws IllegalArgumentException if it is not
   */
  SlotSpan require(long slot) {
    SlotSpan span = slot < 0 ? null : spanAtByte(SlotNumber.offset(slot));
    if (span == null || !span.holds(slot)) {
      throw new IllegalArgumentException(
          "slot %x is not held: freed before, or never given out".formatted(slot));
    }
    return span;
  }

  /** Takes a slot back; answers its span if that has become empty and been dissolved. */
  @Nullable SlotSpan free(long slot) {
    SlotSpan span = require(slot);
    boolean wasFull = span.full();
    span.give(slot);
    usedBytes -= span.stride;
    SequencedSet<SlotSpan> siblings =
        open.computeIfAbsent(span.stride, stride -> new LinkedHashSet<>());
    boolean leaves = isLeaving(span);
    boolean over = leaves ? span.deserted() : span.empty();
    if (!over && wasFull && !leaves) {
      siblings.add(span);
    }
    if (over) {
      siblings.remove(span);
      dissolve(span);
    }
    if (siblings.isEmpty()) {
      open.remove(span.stride);
    }
    return over ? span : null;
  }

  /** Nobody holds this slot any more, but it is never given out; answers as {@link #free}. */
  @Nullable SlotSpan abandon(long slot) {
    SlotSpan span = require(slot);
    span.abandoned++;
    boolean over = isLeaving(span) && span.deserted();
    if (over) {
      dissolve(span);
    }
    return over ? span : null;
  }

  private void dissolve(SlotSpan span) {
    usedBytes -= span.abandoned * span.stride;
    if (isLeaving(span)) {
      leaving.decrementAndGet();
    }
    for (int extent = span.firstExtent; extent < span.firstExtent + span.extents; extent++) {
      spans.set(extent, null);
      // What cannot be trusted is not given to the header log either.
      free.set(extent, extent < extents && span.abandoned == 0);
    }
  }

  // ---- another size

  /**
   * Ends elsewhere from now on.
   *
   * @param reserved extents before the end that are kept for the header log
   * @return spans that are gone at once: they lie beyond the end, and nobody holds anything there
   */
  List<SlotSpan> resize(int end, int reserved) {
    if (end > spans.length()) {
      AtomicReferenceArray<@Nullable SlotSpan> longer = new AtomicReferenceArray<>(end);
      for (int extent = 0; extent < spans.length(); extent++) {
        longer.set(extent, spans.get(extent));
      }
      spans = longer;
    }
    for (int extent = extents; extent < end; extent++) {
      free.set(extent, spans.get(extent) == null && !logs.get(extent));
    }
    free.clear(end, Math.max(end, free.length()));
    extents = end;
    limit = end - reserved;
    leaving.set(0);
    open.clear();
    List<SlotSpan> gone = new ArrayList<>();
    forEach(span -> {
      if (!isLeaving(span)) {
        if (!span.full()) {
          open.computeIfAbsent(span.stride, stride -> new LinkedHashSet<>()).add(span);
        }
        return;
      }
      leaving.incrementAndGet();
      if (span.deserted()) {
        gone.add(span);
      }
    });
    gone.forEach(this::dissolve);
    return gone;
  }

  /** Keeps an extent more for the header log; answers as {@link #resize}. */
  List<SlotSpan> reserveMore() {
    return resize(extents, Math.min(extents, extents - limit + 1));
  }

  /** What lay beyond the end is not the directory's any more: spans may use all before it. */
  void settle() {
    resize(extents, 0); // nothing leaves any more, whatever has been kept for the log meanwhile
    logs.clear(extents, Math.max(extents, logs.length()));
  }

  private void forEach(Consumer<SlotSpan> visitor) {
    for (int extent = 0; extent < spans.length(); ) {
      SlotSpan span = spans.get(extent);
      if (span != null) {
        visitor.accept(span);
      }
      extent += span == null ? 1 : span.extents;
    }
  }

  private boolean isLeaving(SlotSpan span) {
    return span.firstExtent + span.extents > limit;
  }

  /** Whether a slot that is held lies in what is wanted back. */
  boolean leaves(long slot) {
    SlotSpan span = spanAtByte(SlotNumber.offset(slot));
    return span != null && isLeaving(span);
  }

  /** Whether nobody holds anything that is wanted back. Any thread. */
  boolean vacant() {
    return leaving.get() == 0;
  }

  /** Puts a span that was found at a start in its place, with the slots that it holds. */
  void restore(SlotSpan span) {
    place(span);
    usedBytes += span.used() * span.stride;
    if (!span.full()) {
      open.computeIfAbsent(span.stride, stride -> new LinkedHashSet<>()).add(span);
    }
  }
}
