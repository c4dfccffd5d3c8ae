package io.flexkv.events;

import io.flexkv.protocol.Protocol;

/**
 * One scheduler that hears of a namespace's blocks: how far it has read the journal, how far its
 * listing is, and how many notices are on their way to it.
 *
 * <p><b>Why it misses nothing.</b> It takes a listing when it begins, when the journal has moved on
 * without it, and when it asks. A listing names every block that is resident from its begin to its
 * end, in whatever order changes come in between; and whatever is sent is true when it is sent: a
 * journal entry that later ones have undone is left out. So once the end has been heard, what the
 * scheduler has heard last of each block is what holds, and blocks it had announced but has not
 * heard of since the begin are gone.
 */
final class Subscriber {
  /**
   * Notices that may be on their way: with {@link NoticeBuilder#FULL_BYTES} a quarter of a ring.
   */
  static final int WINDOW_NOTICES = 32;

  final int id;
  final NoticeSink sink;
  final FactTable.Cursor cursor;

  /** The journal's next change to tell. */
  long position;

  boolean wantsListing = true;
  boolean listing;

  /** The tier that is listed at present, and the block that came in last before the listing. */
  int listingTier;

  long listingUntil;
  private long sent;
  private long taken;

  Subscriber(int id, NoticeSink sink, FactTable.Cursor cursor) {
    this.id = id;
    this.sink = sink;
    this.cursor = cursor;
  }

  boolean hasRoom() {
    return sent - taken < WINDOW_NOTICES;
  }

  void sentOne() {
    sent++;
  }

  /** The scheduler has taken so many notices in all; false if it cannot have. */
  boolean took(long inAll) {
    if (inAll < taken || inAll > sent) {
      return false;
    }
    taken = inAll;
    return true;
  }

  void beginListing(FactTable facts, Journal journal) {
    wantsListing = false;
    listing = true;
    listingTier = Protocol.TIER_HOST;
    listingUntil = facts.lastSequence();
    position = journal.next();
    cursor.moveTo(facts.first());
  }
}
