package io.flexkv.events;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;

import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Tells schedulers which blocks of their namespace each tier holds. Cache thread only.
 *
 * <p>An engine with events on says the tokens of the blocks that it is about to save ({@link
 * #learn}); they stay here for as long as a tier has the block. The cache core's effects come in by
 * {@link #stored}, {@link #evicted} and {@link #cleared}, which only note them: what subscribers
 * hear is written by {@link #pump}, a few records a turn, never more than they have room for.
 * Without an engine that has events on, all of this is one look into an empty map.
 */
public final class EventHub {
  /** Memory for facts that wait for their blocks, per namespace. */
  private static final int MAX_WAITING_BYTES = 32 << 20;

  private static final int MAX_EXTRA_BYTES = 64 << 20;

  private static final byte[] NO_EXTRA = new byte[0];

  private final Map<Integer, NamespaceFeed> feeds = new LinkedHashMap<>();
  private final EventCounters counters = new EventCounters();
  private final NoticeBuilder builder = new NoticeBuilder();
  private @Nullable SurvivorFacts survivor;
  private final MemorySegment scratch = Arena.ofAuto().allocate(Protocol.MAX_RECORD_BYTES, 8);

  /**
   * A scheduler wants to hear of a namespace; it gets a listing first. Does nothing if it does
   * already; one that listened to another namespace changes over.
   *
   * @param subscriber its session's id
   */
  public void subscribe(int subscriber, int namespace, int blockTokens, NoticeSink sink) {
    NamespaceFeed feed = feed(namespace, blockTokens);
    if (feed.subscriber(subscriber) == null) {
      unsubscribe(subscriber);
      feed.subscribe(subscriber, sink);
    }
  }

  /** Whoever has gone hears no more. */
  public void unsubscribe(int subscriber) {
    for (NamespaceFeed feed : feeds.values()) {
      Subscriber known = feed.subscriber(subscriber);
      if (known != null) {
        feed.unsubscribe(known);
      }
    }
  }

  /**
   * A scheduler has taken notices.
   *
   * @param inAll how many since it subscribed
   * @param anew whether it wants a listing
   * @throws ProtocolException if it cannot have taken so many
   */
  public void taken(int subscriber, long inAll, boolean anew) throws ProtocolException {
    for (NamespaceFeed feed : feeds.values()) {
      Subscriber known = feed.subscriber(subscriber);
      if (known != null) {
        if (!known.took(inAll)) {
          throw new ProtocolException("%d notices taken, not so many were sent".formatted(inAll));
        }
        known.wantsListing |= anew;
      }
    }
  }

  /**
   * An engine says what its next saves are of. Tokens are those of the record's last blocks: of all
   * of them, or of all but the first, which is then only the parent.
   *
   * @param blockTokens tokens of one block
   * @throws ProtocolException if the tokens are not of whole blocks, or extra keys not one a block
   */
  public void learn(int namespace, int group, int blockTokens, ExtendRecord record)
      throws ProtocolException {
    int told = blockTokens == 0 ? 0 : record.tokensCount() / blockTokens;
    int skipped = record.count() - told;
    if ((long) told * blockTokens != record.tokensCount() || skipped < 0 || skipped > 1) {
      throw new ProtocolException(
          "%d tokens for %d blocks of %d"
              .formatted(record.tokensCount(), record.count(), blockTokens));
    }
    FactTable facts = feed(namespace, blockTokens).facts();
    boolean takes = facts.takes(record.hashBytes(), blockTokens);
    MemorySegment from = record.segment();
    ExtraKeys extras = new ExtraKeys(from, record.extraOffset(), record.extraBytes());
    for (int i = 0; i < told; i++) {
      long hashAt = record.hashesOffset() + (long) (i + skipped) * record.hashBytes();
      byte[] extra = extras.next();
      if (takes) {
        facts.learn(
            group,
            from,
            hashAt,
            i + skipped == 0 ? -1 : hashAt - record.hashBytes(),
            record.tokensOffset() + 4L * i * blockTokens,
            extra);
      }
    }
    extras.checkEnd();
  }

  /**
   * What an event must say of a block, for a tier that survives a restart: see {@link
   * SurvivorFacts}.
   *
   * @return empty if it is not known, or longer than {@code maxBytes}
   */
  public byte[] eventData(int namespace, int group, long eventHash, int maxBytes) {
    NamespaceFeed feed = feeds.get(namespace);
    byte[] data =
        feed == null
            ? NO_EXTRA
            : SurvivorFacts.of(feed.facts(), feed.facts().find(group, eventHash));
    return data.length > maxBytes ? NO_EXTRA : data;
  }

  /**
   * A block that survived a restart is about to be offered to the cache core: if it becomes {@link
   * #stored}, before the next call of this, these are its facts.
   *
   * @param data what {@link #eventData} said of it in an earlier life; empty = nothing
   */
  public void offered(int blockTokens, byte[] data) {
    survivor = data.length == 0 ? null : SurvivorFacts.read(blockTokens, data);
  }

  /** See {@code CacheEffects.stored}. */
  public void stored(int namespace, int tier, int group, long eventHash) {
    SurvivorFacts facts = survivor;
    if (facts != null && facts.isOf(eventHash)) {
      facts.learn(feed(namespace, facts.blockTokens()).facts(), group);
    }
    NamespaceFeed feed = feeds.get(namespace);
    if (feed != null) {
      feed.stored(tier, group, eventHash);
    }
  }

  /** See {@code CacheEffects.evicted}. */
  public void evicted(int namespace, int tier, int group, long eventHash) {
    NamespaceFeed feed = feeds.get(namespace);
    if (feed != null) {
      feed.evicted(tier, group, eventHash);
    }
  }

  /** See {@code CacheEffects.cleared}. */
  public void cleared(int namespace) {
    NamespaceFeed feed = feeds.get(namespace);
    if (feed != null) {
      feed.cleared();
    }
  }

  /** Writes a few notices; returns how much it did, 0 if nobody has anything to hear. */
  public int pump() {
    int work = 0;
    for (NamespaceFeed feed : feeds.values()) {
      work += feed.pump();
    }
    return work;
  }

  /** Writes all changes that a subscriber has room for, before it is told something else. */
  public void flush(int subscriber) {
    for (NamespaceFeed feed : feeds.values()) {
      Subscriber known = feed.subscriber(subscriber);
      if (known != null) {
        feed.flush(known);
      }
    }
  }

  public EventCounters counters() {
    return counters;
  }

  /** Blocks that some tier holds and whose facts are known, of all namespaces. */
  public int knownBlocks() {
    int sum = 0;
    for (NamespaceFeed feed : feeds.values()) {
      sum += feed.facts().residentFacts();
    }
    return sum;
  }

  private NamespaceFeed feed(int namespace, int blockTokens) {
    return feeds.computeIfAbsent(
        namespace,
        n ->
            new NamespaceFeed(
                new FactTable(blockTokens, MAX_WAITING_BYTES, MAX_EXTRA_BYTES),
                counters,
                builder,
                scratch));
  }

  /** Reads extra keys: for each block a u32 of their length, then so many bytes; or nothing. */
  private static final class ExtraKeys {
    private final MemorySegment from;
    private final long end;
    private final boolean none;
    private long at;

    ExtraKeys(MemorySegment from, long at, int length) {
      this.from = from;
      this.at = at;
      this.end = at + length;
      this.none = length == 0;
    }

    byte[] next() throws ProtocolException {
      if (none) {
        return NO_EXTRA;
      }
      if (at + 4 > end) {
        throw new ProtocolException("extra keys end before their last block");
      }
      int length = from.get(FactDescriptor.I32, at);
      at += 4;
      if (length < 0 || length > end - at) {
        throw new ProtocolException(
            "extra keys of %d bytes, %d are left".formatted(length, end - at));
      }
      if (length > NoticeBuilder.FULL_BYTES) {
        throw new ProtocolException(
            "extra keys of %d bytes a block, at most %d"
                .formatted(length, NoticeBuilder.FULL_BYTES));
      }
      byte[] extra = from.asSlice(at, length).toArray(JAVA_BYTE);
      at += length;
      return extra;
    }

    void checkEnd() throws ProtocolException {
      if (at != end) {
        throw new ProtocolException("%d bytes behind the last extra keys".formatted(end - at));
      }
    }
  }
}
