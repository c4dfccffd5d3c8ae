package io.flexkv.tier.ssd;

import java.util.BitSet;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.SequencedSet;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReferenceArray;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/**
 * The extents of one directory: each is free, part of a span of slots, or the header log's. One
 * thread changes it (the recovery's, then the cache thread); {@link #spanAt} is for all.
 */
final class DirectorySpace {
  /** A span may leave 1/32 of itself unused, if a longer one does not do better. */
  private static final long WASTE_DIVISOR = 32;

  private static final int MAX_EXTRA_EXTENTS = 32;

  private final int directory;
  private final int extents;
  private final long extentBytes;
  private final int extentsPerFile;
  private final LongSupplier sequence;
  private final BitSet free;
  private final AtomicReferenceArray<@Nullable SlotSpan> spans;

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
   * Whether every header that the next start may find is right about its slot. One that came back
   * after an unclean end, and was given back without having been verified, may be wrong: its slot
   * may be free, but it stands in the log as long as nothing takes its place. Any thread.
   */
  boolean proven() {
    return unproven.get() == 0;
  }

  int extents() {
    return extents;
  }

  /** The span that an extent belongs to, null if none. Any thread. */
  @Nullable SlotSpan spanAt(int extent) {
    return extent >= 0 && extent < extents ? spans.get(extent) : null;
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
    }
    return extent;
  }

  /** Marks an extent that the log has already. */
  void claim(int extent) {
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
      if (Math.min(end, fileEnd) - first >= length) {
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
    if (!span.empty()) {
      if (wasFull) {
        siblings.add(span);
      }
      return null;
    }
    siblings.remove(span);
    if (siblings.isEmpty()) {
      open.remove(span.stride);
    }
    for (int extent = span.firstExtent; extent < span.firstExtent + span.extents; extent++) {
      spans.set(extent, null);
      free.set(extent);
    }
    return span;
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
