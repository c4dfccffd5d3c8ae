package io.flexkv.tier.ssd;

import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Deque;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The extents of a directory's header log: which are free, which is appended to, and which one is
 * to be cleaned.
 *
 * <p><b>Reserve.</b> Of the free extents one is for the cleaner alone, so it always ends, and one
 * is not used before the next start, which finds more that counts than there was: blocks that had
 * been given back.
 *
 * <p><b>A smaller directory.</b> The log moves to extents before its end as it gets some: never
 * fewer than it needs to be cleaned with. Then those beyond are cleaned first, whatever counts in
 * them ({@link #resize}).
 *
 * <p>Guarded by the log, but for {@link #wantsAnother} and {@link #stuck}, which any thread may
 * ask.
 */
final class LogExtents {
  /** An extent is worth cleaning if it gets this share of its headers rid of. */
  private static final double WORTH_CLEANING = 0.1;

  /** Free extents that are not for new headers: the cleaner's and the next start's. */
  private static final int RESERVED = 2;

  /** Shares of live headers above which the log asks for another extent. */
  private static final double CROWDED = 0.5;

  /**
   * An extent that is being cleaned.
   *
   * @param inOrder whether no older header comes to count for one that is cleaned away
   */
  record Victim(int extent, long use, boolean inOrder) {}

  private final int pagesPerExtent;
  private final Deque<Integer> free = new ArrayDeque<>();

  /** Those that are not empty, at their numbers. */
  private @Nullable LogExtent[] used;

  /** Extents of the directory. */
  private int end;

  private @Nullable LogExtent current;
  private int nextPage;
  private long nextUse = 1;
  private volatile boolean wantsAnother;
  private volatile boolean stuck;

  LogExtents(int end, int pagesPerExtent) {
    this.pagesPerExtent = pagesPerExtent;
    this.end = end;
    this.used = new LogExtent[end];
  }

  int pagesPerExtent() {
    return pagesPerExtent;
  }

  /** Pages count from 1 through all extents. */
  int pageNumber(int extent, int page) {
    return extent * pagesPerExtent + page + 1;
  }

  // ---- setting up

  /** Uses have greater numbers from now on. */
  void startAfter(long use) {
    nextUse = Math.max(nextUse, use + 1);
  }

  /** A number greater than those of all uses before. */
  long nextUse() {
    return nextUse++;
  }

  /**
   * One that holds headers. The one of the latest use is appended to.
   *
   * @param next the page after its last valid one
   */
  void restore(LogExtent restored, int next) {
    used[restored.extent] = restored;
    if (current == null || restored.use > current.use) {
      current = restored;
      nextPage = next;
    }
  }

  /** Another one, empty. */
  void grant(int extent) {
    free.add(extent);
    wantsAnother = false;
    stuck = false;
  }

  /** Whether another one would spare work. */
  boolean wantsAnother() {
    return wantsAnother;
  }

  /** Whether headers wait for room that cleaning cannot make. */
  boolean stuck() {
    return stuck;
  }

  // ---- another size of the directory

  /**
   * The directory ends here from now on.
   *
   * @return extents before the end that are needed, to leave those beyond it
   */
  int resize(int extents) {
    end = extents;
    if (end > used.length) {
      used = Arrays.copyOf(used, end);
    }
    return leavesEnd() ? usedBeyond() + Math.max(0, RESERVED + 1 - freeBefore()) : 0;
  }

  /** Whether nothing beyond the end is needed any more. */
  boolean vacant() {
    return !leavesEnd() || (usedBeyond() == 0 && freeBefore() >= RESERVED);
  }

  /** None beyond the end is taken from now on; false if one there is used. */
  boolean leaveBeyond() {
    boolean vacant = vacant();
    if (vacant) {
      free.removeIf(extent -> extent >= end);
    }
    return vacant;
  }

  /** Whether there is anything beyond the end. */
  private boolean leavesEnd() {
    return usedBeyond() > 0 || free.size() > freeBefore();
  }

  private int freeBefore() {
    return (int) free.stream().filter(extent -> extent < end).count();
  }

  private int usedBeyond() {
    int count = 0;
    for (int extent = end; extent < used.length; extent++) {
      count += used[extent] == null ? 0 : 1;
    }
    return count;
  }

  /** Whether an extent lies beyond the end, and there are enough before it. */
  private boolean mayLeave(LogExtent extent) {
    return extent.extent >= end && freeBefore() > RESERVED;
  }

  // ---- appending

  /**
   * The extent to append to, null if there is none.
   *
   * @param moves whether headers are to be moved, for which the reserve is
   */
  @Nullable LogExtent room(boolean moves) {
    if (current == null || nextPage == pagesPerExtent || mayLeave(current)) {
      Integer extent = onlyMoves() && !moves ? null : takeFree();
      if (extent == null) {
        return null;
      }
      current = new LogExtent(extent, nextUse++);
      used[extent] = current;
      nextPage = 0;
    }
    return onlyMoves() && !moves ? null : current;
  }

  /** One before the end, if there is one. */
  private @Nullable Integer takeFree() {
    for (Integer extent : free) {
      if (extent < end) {
        free.remove(extent);
        return extent;
      }
    }
    return free.poll();
  }

  /** Whether what is left is the cleaner's. */
  boolean onlyMoves() {
    return free.size() < RESERVED;
  }

  /** Where in it the next page goes. */
  int nextPage() {
    return nextPage;
  }

  int pagesLeft() {
    return pagesPerExtent - nextPage;
  }

  /** So many pages were filled. */
  void filled(int pages) {
    nextPage += pages;
  }

  // ---- what counts, and cleaning

  /** A header in this page does not count any more; 0 is none. */
  void forget(int page) {
    LogExtent extent = page == 0 ? null : used[(page - 1) / pagesPerExtent];
    if (extent != null && extent.live > 0) {
      extent.live--;
    }
  }

  /** A span is gone, and with it all its headers. */
  void dissolve(SlotSpan span) {
    for (int i = 0; i < span.slots; i++) {
      forget(span.headerPage(i));
    }
    span.setDissolved();
    for (LogExtent extent : used) {
      if (extent != null) {
        extent.dissolve(span);
      }
    }
  }

  /**
   * The one to clean; null if none is needed or worth it.
   *
   * @param writing whether the one that is appended to is being written
   */
  @Nullable Victim victim(boolean writing) {
    LogExtent last = lastBeyond(writing);
    if (last != null && freeBefore() >= RESERVED) {
      // All of it may count: with what pages lose to rounding it may need more than an extent.
      return victim(last, LogExtent.inOrder(all()));
    }
    boolean moves = leavesEnd() && freeBefore() <= RESERVED;
    if (free.size() > RESERVED) {
      wantsAnother |= moves;
      return null;
    }
    List<LogExtent> all = all();
    List<LogExtent> inOrder = LogExtent.inOrder(all);
    LogExtent best = emptiest(inOrder);
    if (best == null || best.share() > 1 - WORTH_CLEANING) {
      best = emptiest(all);
    }
    if (best == null || best.share() > 1 - WORTH_CLEANING) {
      wantsAnother = true;
      stuck = onlyMoves();
      return null;
    }
    wantsAnother = moves || best.share() > CROWDED;
    return victim(best, inOrder);
  }

  private static Victim victim(LogExtent chosen, List<LogExtent> inOrder) {
    return new Victim(chosen.extent, chosen.use, inOrder.contains(chosen));
  }

  private List<LogExtent> all() {
    return Arrays.stream(used).filter(Objects::nonNull).toList();
  }

  /** The one of which least counts, but the one that is appended to. */
  private @Nullable LogExtent emptiest(List<LogExtent> extents) {
    return extents.stream()
        .filter(extent -> extent != current)
        .min(Comparator.comparingDouble(LogExtent::share))
        .orElse(null);
  }

  /** One beyond the end that is not empty and not appended to, or null. */
  private @Nullable LogExtent lastBeyond(boolean writing) {
    if (current != null && !writing && mayLeave(current)) {
      current = null;
    }
    for (int extent = used.length - 1; extent >= end; extent--) {
      if (used[extent] != null && used[extent] != current) {
        return used[extent];
      }
    }
    return null;
  }

  /** The cleaned one may be used again: nothing in it counts. */
  void release(Victim victim) {
    used[victim.extent()] = null;
    free.add(victim.extent());
    stuck = false;
  }
}
