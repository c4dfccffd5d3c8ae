package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.READY;
import static io.flexkv.cache.EntryLayout.SSD_HELD;
import static io.flexkv.cache.EntryLayout.SSD_HELD_CHILDREN;
import static io.flexkv.cache.EntryLayout.SSD_SLOT;
import static io.flexkv.cache.EntryLayout.SSD_WRITTEN;
import static io.flexkv.cache.EntryLayout.STATE;

import java.util.function.LongPredicate;

/**
 * Forgets the SSD copies that lie in lost slots, and with them all copies below, for those are
 * closed: few at once, millions a portion a call, because lookups wait meanwhile. What is not
 * forgotten yet may still be found; its read fails at once, as that of a block which is lost a
 * moment later.
 *
 * <p>Copies go leaves first: from each copy without one below it the way up is looked at, and if a
 * lost one is there, all up to the highest of those go, as far as no other copies lie below them.
 * So a portion is small however many copies hang on one lost block. What goes with a block that was
 * nowhere else goes leaves first too, in several portions if it is much. The way up cannot be
 * parted: it is counted, and a portion ends with it. Rounds follow each other until one finds
 * nothing: below a block that was still there others may have been written.
 *
 * <p>Cache thread only.
 */
final class LostCopies {
  /** Entries that a call looks at, about: some 50 µs. It ends with the one that passes this. */
  static final int PORTION = 256;

  /** Entries that are looked at when the loss is told: some milliseconds. */
  static final int AT_ONCE = 1 << 14;

  /** Copies that go with the end of a way up, however long the way was. */
  private static final int AT_LEAST = 64;

  private final BlockIndex index;
  private final BlockTree tree;
  private final Copies copies;
  private final Losses losses;
  private LongPredicate slots = slot -> false;
  private int next = Integer.MAX_VALUE;
  private boolean found;

  /** Entries that this call has looked at or removed. */
  private int looked;

  LostCopies(BlockIndex index, BlockTree tree, Losses losses) {
    this.index = index;
    this.tree = tree;
    this.copies = tree.copies();
    this.losses = losses;
  }

  /** These are lost too. */
  void lost(LongPredicate more) {
    slots = hasMore() ? slots.or(more) : more;
    next = 0;
    found = false;
    work(AT_ONCE);
  }

  /** The next portion; returns how much it looked at, 0 where nothing is left to forget. */
  int step() {
    return work(PORTION);
  }

  /** Whether there are lost slots whose copies are not all forgotten. */
  boolean hasMore() {
    return next != Integer.MAX_VALUE;
  }

  private int work(int most) {
    looked = 0;
    while (looked < most && next < index.handles()) {
      looked++;
      if (!look(next, most)) {
        break; // the next call goes on with it
      }
      next++;
      if (next == index.handles() && found) {
        next = 0;
        found = false;
      }
    }
    if (next >= index.handles()) {
      next = Integer.MAX_VALUE;
    }
    return looked;
  }

  /** Forgets what must go from this entry upwards; false if that was too much for this call. */
  private boolean look(int entry, int most) {
    if (!index.isEntry(entry) || index.getInt(entry, STATE) != READY) {
      return true;
    }
    int onSsd = copies.onSsd(entry);
    if (onSsd == SSD_WRITTEN && lies(entry)) {
      copies.dropSsd(entry); // it waits for its parent
      return true;
    }
    found |= onSsd == SSD_HELD && lies(entry);
    if (onSsd != SSD_HELD || hasHeldBelow(entry)) {
      return true;
    }
    int highest = NONE;
    for (int at = entry; at != NONE; at = tree.parent(at)) {
      highest = lies(at) ? at : highest;
      looked++;
    }
    int at = highest == NONE ? NONE : entry;
    while (at != NONE) {
      int above = at == highest ? NONE : tree.parent(at);
      looked += losses.loseLast(at, Math.max(AT_LEAST, most - looked));
      if (index.isEntry(at) && copies.onSsd(at) == SSD_HELD) {
        return false;
      }
      at = above == NONE || hasHeldBelow(above) ? NONE : above;
    }
    return true;
  }

  private boolean lies(int entry) {
    return slots.test(index.getLong(entry, SSD_SLOT));
  }

  private boolean hasHeldBelow(int entry) {
    return index.getInt(entry, SSD_HELD_CHILDREN) != 0;
  }
}
