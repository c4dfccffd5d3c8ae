package io.flexkv.events;

import io.flexkv.protocol.Protocol;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** The facts and the journal of one namespace, and who hears of them. */
final class NamespaceFeed {
  private static final int RECORDS_A_TURN = 4;

  /** Facts or changes that are looked at for one notice, so that a turn stays short. */
  private static final int LOOKED_AT_MAX = 1024;

  private final FactTable facts;
  private final Journal journal = new Journal();
  private final List<Subscriber> subscribers = new ArrayList<>();
  private final EventCounters counters;
  private final NoticeBuilder builder;
  private final MemorySegment scratch;

  /** Where the journal and the cursor stand once the notice in the making has been sent. */
  private long positionAfter;

  NamespaceFeed(
      FactTable facts, EventCounters counters, NoticeBuilder builder, MemorySegment scratch) {
    this.facts = facts;
    this.counters = counters;
    this.builder = builder;
    this.scratch = scratch;
  }

  FactTable facts() {
    return facts;
  }

  void subscribe(int id, NoticeSink sink) {
    subscribers.add(new Subscriber(id, sink, facts.newCursor()));
  }

  @Nullable Subscriber subscriber(int id) {
    for (Subscriber subscriber : subscribers) {
      if (subscriber.id == id) {
        return subscriber;
      }
    }
    return null;
  }

  void unsubscribe(Subscriber subscriber) {
    subscriber.cursor.close();
    subscribers.remove(subscriber);
  }

  // ------------------------------------------------------------------ changes

  void stored(int tier, int group, long eventHash) {
    if (facts.stored(group, eventHash, tier)) {
      journal.add(Protocol.NOTICE_STORED, tier, group, eventHash);
    } else {
      counters.blocksWithoutFacts++;
    }
  }

  void evicted(int tier, int group, long eventHash) {
    if (facts.evicted(group, eventHash, tier)) {
      journal.add(Protocol.NOTICE_EVICTED, tier, group, eventHash);
    }
  }

  void cleared() {
    facts.clear();
    journal.add(Protocol.NOTICE_CLEARED, 0, 0, 0);
  }

  // ------------------------------------------------------------------ telling

  /** Tells each subscriber a little; returns how much it was. */
  int pump() {
    int work = 0;
    for (int i = 0; i < subscribers.size(); i++) {
      work += pump(subscribers.get(i));
    }
    return work;
  }

  /**
   * Tells one of them all changes that it has room for, but of a listing no more than in any turn:
   * that can be as long as everything resident.
   */
  void flush(Subscriber to) {
    boolean more = true;
    while (more && (to.wantsListing || to.position < journal.next())) {
      more = to.hasRoom() && step(to);
    }
    pump(to);
  }

  private int pump(Subscriber to) {
    int work = 0;
    while (work < RECORDS_A_TURN && to.hasRoom() && step(to)) {
      work++;
    }
    return work;
  }

  /** One notice, or one move on without one; false if there is nothing to do or no room. */
  private boolean step(Subscriber to) {
    if (!to.wantsListing && !journal.has(to.position)) {
      to.wantsListing = true;
      counters.overruns++;
    }
    if (to.wantsListing) {
      if (!send(to, plain(Protocol.NOTICE_LIST_BEGIN))) {
        return false;
      }
      counters.listings++;
      to.beginListing(facts, journal);
      return true;
    }
    if (to.position < journal.next()) {
      return tellChanges(to);
    }
    return to.listing && tellListing(to);
  }

  private boolean tellChanges(Subscriber to) {
    int change = journal.change(to.position);
    if (Journal.kind(change) == Protocol.NOTICE_CLEARED) {
      if (!send(to, plain(Protocol.NOTICE_CLEARED))) {
        return false;
      }
      to.position++;
      return true;
    }
    boolean stored = Journal.kind(change) == Protocol.NOTICE_STORED;
    gatherChanges(to, change, stored);
    if (builder.blocks() > 0 && !send(to, builder.encode(scratch))) {
      return false;
    }
    counters.count(stored, builder.blocks());
    to.position = positionAfter;
    return true;
  }

  private void gatherChanges(Subscriber to, int change, boolean stored) {
    int tier = Journal.tier(change);
    int group = Journal.group(change);
    builder.begin(Journal.kind(change), tier, group, facts.hashBytes());
    long end = Math.min(journal.next(), to.position + LOOKED_AT_MAX);
    long at = to.position;
    for (; at < end && journal.change(at) == change; at++) {
      long eventHash = journal.eventHash(at);
      int id = facts.find(group, eventHash);
      boolean there = id != FactTable.NONE && facts.isIn(id, tier);
      if (there != stored) {
        continue; // a later change has undone this one
      }
      if (stored ? !builder.add(facts, id) : !builder.addEvicted(eventHash)) {
        break;
      }
    }
    positionAfter = at;
  }

  private boolean tellListing(Subscriber to) {
    int tier = to.listingTier;
    int id = facts.blocksIn(tier) == 0 ? FactTable.NONE : to.cursor.at();
    int looked = 0;
    while (isListed(to, id) && !facts.isIn(id, tier) && looked++ < LOOKED_AT_MAX) {
      id = facts.next(id);
    }
    to.cursor.moveTo(id);
    if (!isListed(to, id)) {
      return endTier(to);
    }
    if (!facts.isIn(id, tier)) {
      return true; // a long way without one: goes on in the next turn
    }
    int group = facts.group(id);
    builder.begin(Protocol.NOTICE_STORED, tier, group, facts.hashBytes());
    while (isListed(to, id)
        && facts.isIn(id, tier)
        && facts.group(id) == group
        && builder.add(facts, id)) {
      id = facts.next(id);
    }
    if (!send(to, builder.encode(scratch))) {
      return false;
    }
    counters.count(true, builder.blocks());
    to.cursor.moveTo(id);
    return true;
  }

  private boolean isListed(Subscriber to, int id) {
    return id != FactTable.NONE && facts.sequence(id) <= to.listingUntil;
  }

  private boolean endTier(Subscriber to) {
    if (to.listingTier < Protocol.TIER_REMOTE) {
      to.listingTier++;
      to.cursor.moveTo(facts.first());
      return true;
    }
    if (!send(to, plain(Protocol.NOTICE_LIST_END))) {
      return false;
    }
    to.listing = false;
    to.cursor.moveTo(FactTable.NONE);
    return true;
  }

  private int plain(int kind) {
    builder.begin(kind, 0, 0, Protocol.MIN_HASH_BYTES);
    return builder.encode(scratch);
  }

  private boolean send(Subscriber to, int length) {
    if (!to.sink.offer(scratch, length)) {
      return false;
    }
    to.sentOne();
    return true;
  }
}
