package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.CHILDREN;
import static io.flexkv.cache.EntryLayout.FIRST_CHILD;
import static io.flexkv.cache.EntryLayout.GROUP;
import static io.flexkv.cache.EntryLayout.HASH;
import static io.flexkv.cache.EntryLayout.HOST;
import static io.flexkv.cache.EntryLayout.HOST_CHILDREN;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.HOST_READING;
import static io.flexkv.cache.EntryLayout.HOST_THERE;
import static io.flexkv.cache.EntryLayout.HOT;
import static io.flexkv.cache.EntryLayout.NAMESPACE;
import static io.flexkv.cache.EntryLayout.NEXT_SIBLING;
import static io.flexkv.cache.EntryLayout.OWNER;
import static io.flexkv.cache.EntryLayout.PARENT;
import static io.flexkv.cache.EntryLayout.PINS;
import static io.flexkv.cache.EntryLayout.READY;
import static io.flexkv.cache.EntryLayout.SLOT;
import static io.flexkv.cache.EntryLayout.SSD;
import static io.flexkv.cache.EntryLayout.SSD_CHILDREN;
import static io.flexkv.cache.EntryLayout.SSD_HELD;
import static io.flexkv.cache.EntryLayout.SSD_HELD_CHILDREN;
import static io.flexkv.cache.EntryLayout.SSD_NONE;
import static io.flexkv.cache.EntryLayout.SSD_QUEUED;
import static io.flexkv.cache.EntryLayout.SSD_SLOT;
import static io.flexkv.cache.EntryLayout.SSD_WRITING;
import static io.flexkv.cache.EntryLayout.SSD_WRITTEN;
import static io.flexkv.cache.EntryLayout.STATE;

import java.util.function.IntConsumer;
import java.util.function.IntPredicate;

/**
 * In which tiers a block lies, and what that means for its neighbours.
 *
 * <p>(1) A servable block has a copy in the host tier, or on the SSD, or both.
 *
 * <p>(2) SSD copies are closed: a block is held there only while its parent is. So what a restart
 * finds are whole chains, and a block without an SSD copy has no child that is on the SSD alone.
 *
 * <p>(3) Host copies are not closed (a block may be saved under a parent that is on the SSD alone),
 * but each goes only after those of its children. HOT says that all ancestors are in the host tier
 * too; it is monotone along a chain, so lookups stay binary searches. A block becomes hot when its
 * copy comes under a hot parent, and brings with it what lies below it; it ceases to be when its
 * copy goes, and then nothing below it is in the host tier. So keeping it costs O(1) a copy.
 *
 * <p>(4) A block that is being read or written is not evicted; if its copy goes nevertheless (a
 * reset, a lost disk), the slot pools keep both slots until the transfer is drained.
 */
final class Copies {
  private final BlockIndex index;
  private final Namespaces namespaces;
  private final SlotPool host;
  private final SlotPool ssd;
  private final CacheEffects effects;
  private final Counters counters;
  private final IntConsumer holdCopy = this::holdCopy;
  private IntConsumer onNeed = entry -> {};

  Copies(
      BlockIndex index,
      Namespaces namespaces,
      SlotPool host,
      SlotPool ssd,
      CacheEffects effects,
      Counters counters) {
    this.index = index;
    this.namespaces = namespaces;
    this.host = host;
    this.ssd = ssd;
    this.effects = effects;
    this.counters = counters;
  }

  /** Who is told of each block whose host slot somebody begins to need, or to move. */
  void onNeed(IntConsumer listener) {
    onNeed = listener;
  }

  /** From now on somebody needs what is in the host slot; see {@link #hostNeeded}. */
  void needed(int entry) {
    onNeed.accept(entry);
  }

  /** Whether a servable block is servable from this tier. */
  static boolean servableFrom(Tier tier, BlockIndex index, int entry) {
    return tier == Tier.HOST
        ? index.getInt(entry, HOST) == HOST_THERE
        : index.getInt(entry, SSD) == SSD_HELD;
  }

  /** Whether the copy in this tier may go. */
  static boolean evictable(Tier tier, BlockIndex index, int entry) {
    return tier == Tier.HOST ? hostEvictable(index, entry) : ssdEvictable(index, entry);
  }

  /** Whether the host copy may go: the last of its chain, that nobody needs or moves. */
  static boolean hostEvictable(BlockIndex index, int entry) {
    return index.getInt(entry, HOST) == HOST_THERE
        && index.getInt(entry, HOST_CHILDREN) == 0
        && !hostNeeded(index, entry)
        && (index.getInt(entry, SSD) == SSD_HELD || index.getInt(entry, CHILDREN) == 0);
  }

  /** Whether somebody needs or moves what is in the host slot, whatever lies below it. */
  static boolean hostNeeded(BlockIndex index, int entry) {
    int onSsd = index.getInt(entry, SSD);
    return index.getInt(entry, STATE) != READY
        || index.getInt(entry, HOST) == HOST_READING
        || index.getInt(entry, PINS) != 0
        || onSsd == SSD_WRITING
        || onSsd == SSD_WRITTEN;
  }

  /** Whether the SSD copy may go. */
  static boolean ssdEvictable(BlockIndex index, int entry) {
    int inHost = index.getInt(entry, HOST);
    return index.getInt(entry, SSD) == SSD_HELD
        && index.getInt(entry, SSD_CHILDREN) == 0
        && index.getInt(entry, PINS) == 0
        && (inHost == HOST_THERE || (inHost == HOST_NONE && index.getInt(entry, CHILDREN) == 0));
  }

  int inHost(int entry) {
    return index.getInt(entry, HOST);
  }

  int onSsd(int entry) {
    return index.getInt(entry, SSD);
  }

  boolean hot(int entry) {
    return index.getInt(entry, HOT) != 0;
  }

  /** Whether it belongs to this transfer still: it may have gone, and its handle come back. */
  boolean owned(int entry, int reference) {
    return index.getInt(entry, OWNER) == reference && index.getInt(entry, STATE) == READY;
  }

  void touch(int entry) {
    if (inHost(entry) == HOST_THERE) {
      namespace(entry).hostPolicy().touch(entry);
    }
    if (onSsd(entry) == SSD_HELD) {
      namespace(entry).ssdPolicy().touch(entry);
    }
  }

  /** Something that kept it from being evicted has gone. */
  void released(int entry) {
    if (index.getInt(entry, STATE) != READY) {
      return;
    }
    if (inHost(entry) == HOST_THERE) {
      namespace(entry).hostPolicy().released(entry);
    }
    if (onSsd(entry) == SSD_HELD) {
      namespace(entry).ssdPolicy().released(entry);
    }
  }

  // ------------------------------------------------------------------ the host copy

  /** A servable block got its host copy. */
  void inHostNow(int entry) {
    index.setInt(entry, HOST, HOST_THERE);
    namespace(entry).hostPolicy().add(entry);
    counters.hostBlocks++;
    stored(Tier.HOST, entry);
    int parent = index.getInt(entry, PARENT);
    if (parent == NONE || hot(parent)) {
      heat(entry);
    }
  }

  /** Begins to read it from the SSD into this slot. */
  void startRead(int entry, long slot, int reference) {
    index.setInt(entry, HOST, HOST_READING);
    index.setLong(entry, SLOT, slot);
    index.setInt(entry, OWNER, reference);
    addTo(entry, HOST_CHILDREN, 1);
    needed(entry);
  }

  /** It has been read. */
  void readDone(int entry) {
    index.setInt(entry, OWNER, NONE);
    inHostNow(entry);
    released(entry);
  }

  /** It has not: the SSD copy is what there is. */
  void readFailed(int entry) {
    index.setInt(entry, OWNER, NONE);
    index.setInt(entry, HOST, HOST_NONE);
    int parent = index.getInt(entry, PARENT);
    if (parent != NONE && addTo(entry, HOST_CHILDREN, -1) == 0) {
      released(parent); // it inherits nothing: nobody has used this copy
    }
    host.retire(index.getLong(entry, SLOT));
    released(entry);
  }

  /** The host copy goes, the block stays on the SSD. */
  void dropHost(int entry) {
    noticeHostGone(entry);
    index.setInt(entry, HOST, HOST_NONE);
    index.setInt(entry, HOT, 0);
    leaveHost(entry);
    namespace(entry).hostPolicy().remove(entry);
    host.retire(index.getLong(entry, SLOT));
  }

  private void heat(int entry) {
    index.setInt(entry, HOT, 1);
    below(
        entry,
        child -> {
          boolean becomes = index.getInt(child, STATE) == READY && inHost(child) == HOST_THERE;
          if (becomes) {
            index.setInt(child, HOT, 1);
          }
          return becomes;
        });
  }

  /**
   * Shows what is below an entry to a visitor, parents first, and goes on only below what it says
   * yes to. The links are the stack: chains are deep.
   */
  void below(int entry, IntPredicate visitor) {
    int node = entry;
    int child = index.getInt(node, FIRST_CHILD);
    while (true) {
      if (child == NONE) {
        if (node == entry) {
          return;
        }
        child = index.getInt(node, NEXT_SIBLING);
        node = index.getInt(node, PARENT);
      } else if (visitor.test(child)) {
        node = child;
        child = index.getInt(node, FIRST_CHILD);
      } else {
        child = index.getInt(child, NEXT_SIBLING);
      }
    }
  }

  // ------------------------------------------------------------------ the SSD copy

  /** It waits to be written. */
  void queue(int entry) {
    index.setInt(entry, SSD, SSD_QUEUED);
  }

  /** It is not written after all. */
  void unqueue(int entry) {
    index.setInt(entry, SSD, SSD_NONE);
  }

  void startWrite(int entry, long slot, int reference) {
    index.setInt(entry, SSD, SSD_WRITING);
    index.setLong(entry, SSD_SLOT, slot);
    index.setInt(entry, OWNER, reference);
    addTo(entry, SSD_CHILDREN, 1);
    needed(entry);
  }

  /** Its bytes are in its SSD slot; it is held there if its parent is, or when that comes. */
  void written(int entry) {
    index.setInt(entry, OWNER, NONE);
    int parent = index.getInt(entry, PARENT);
    int above = parent == NONE ? SSD_HELD : onSsd(parent);
    if (above == SSD_HELD) {
      hold(entry);
    } else if (above == SSD_WRITING || above == SSD_WRITTEN) {
      index.setInt(entry, SSD, SSD_WRITTEN);
    } else {
      dropSsd(entry);
    }
  }

  /** It was not written. */
  void writeFailed(int entry) {
    index.setInt(entry, OWNER, NONE);
    dropSsd(entry);
  }

  /** The SSD copy goes, and what was written below it: the host copy is what there is. */
  void dropSsd(int entry) {
    if (onSsd(entry) == SSD_HELD) {
      dropSsdCopy(entry); // nothing waits for one that is held, and its children may be many
    } else {
      withWritten(entry, this::dropSsdCopy);
    }
  }

  private void dropSsdCopy(int entry) {
    leaveSsdPolicy(entry);
    index.setInt(entry, SSD, SSD_NONE);
    ssd.retire(index.getLong(entry, SSD_SLOT));
    released(entry);
  }

  /** It is held on the SSD from now on, and so is what was written below it. */
  void hold(int entry) {
    withWritten(entry, holdCopy);
  }

  /** Does something with a block, then with what was written below it and waits for it. */
  private void withWritten(int entry, IntConsumer action) {
    action.accept(entry);
    if (index.getInt(entry, FIRST_CHILD) == NONE) {
      return; // without making anything: a start finds millions of blocks that come to this
    }
    below(
        entry,
        child -> {
          boolean waits = onSsd(child) == SSD_WRITTEN;
          if (waits) {
            action.accept(child);
          }
          return waits;
        });
  }

  private void holdCopy(int entry) {
    index.setInt(entry, SSD, SSD_HELD);
    addTo(entry, SSD_HELD_CHILDREN, 1);
    namespace(entry).ssdPolicy().add(entry);
    counters.ssdBlocks++;
    stored(Tier.SSD, entry);
    released(entry);
  }

  /** Found on the SSD after a restart, under a parent that is held there (or none). */
  void adopt(int entry, long slot) {
    index.setLong(entry, SSD_SLOT, slot);
    addTo(entry, SSD_CHILDREN, 1);
    hold(entry);
  }

  // ------------------------------------------------------------------ the block goes

  /** A servable block goes with its copies. Its neighbours know already, its parent does not. */
  void remove(int entry) {
    index.setInt(entry, OWNER, NONE);
    if (inHost(entry) != HOST_NONE) {
      if (inHost(entry) == HOST_THERE) {
        noticeHostGone(entry);
        leaveHost(entry);
        namespace(entry).hostPolicy().remove(entry);
      } else {
        leaveHost(entry);
      }
      host.retire(index.getLong(entry, SLOT));
    }
    if (onSsd(entry) >= SSD_WRITING) {
      leaveSsdPolicy(entry);
      ssd.retire(index.getLong(entry, SSD_SLOT));
    }
    // Its handle stays in queues and transfers, which must not take it for a block.
    index.setInt(entry, HOST, HOST_NONE);
    index.setInt(entry, SSD, SSD_NONE);
  }

  /** The host slot of a block that goes, or of a copy that does, is not below its parent's now. */
  void leaveHost(int entry) {
    int parent = index.getInt(entry, PARENT);
    if (parent != NONE
        && addTo(entry, HOST_CHILDREN, -1) == 0
        && index.getInt(parent, STATE) == READY
        && inHost(parent) == HOST_THERE) {
      namespace(parent).hostPolicy().inherit(parent, entry);
    }
  }

  private void leaveSsdPolicy(int entry) {
    boolean held = onSsd(entry) == SSD_HELD;
    if (held) {
      addTo(entry, SSD_HELD_CHILDREN, -1);
      noticeSsdGone(entry);
    }
    leaveSsd(entry);
    if (held) {
      namespace(entry).ssdPolicy().remove(entry);
    }
  }

  private void leaveSsd(int entry) {
    int parent = index.getInt(entry, PARENT);
    if (parent != NONE && addTo(entry, SSD_CHILDREN, -1) == 0 && onSsd(parent) == SSD_HELD) {
      namespace(parent).ssdPolicy().inherit(parent, entry);
    }
  }

  /** Adds to a counter of the parent, if there is one; returns its new value. */
  int addTo(int entry, int field, int change) {
    int parent = index.getInt(entry, PARENT);
    if (parent == NONE) {
      return -1;
    }
    int now = index.getInt(parent, field) + change;
    if (now < 0) {
      throw new IllegalStateException("entry " + parent + ": field " + field + " is " + now);
    }
    index.setInt(parent, field, now);
    return now;
  }

  private void noticeHostGone(int entry) {
    counters.hostBlocks--;
    gone(Tier.HOST, entry);
  }

  private void noticeSsdGone(int entry) {
    counters.ssdBlocks--;
    gone(Tier.SSD, entry);
  }

  private void stored(Tier tier, int entry) {
    int parent = index.getInt(entry, PARENT);
    effects.stored(
        tier,
        index.getInt(entry, NAMESPACE),
        index.getInt(entry, GROUP),
        index.getLong(entry, HASH),
        parent == NONE ? 0 : index.getLong(parent, HASH),
        parent != NONE);
  }

  private void gone(Tier tier, int entry) {
    if (!namespace(entry).clearing()) {
      effects.evicted(
          tier,
          index.getInt(entry, NAMESPACE),
          index.getInt(entry, GROUP),
          index.getLong(entry, HASH));
    }
  }

  private Namespace namespace(int entry) {
    return namespaces.require(index.getInt(entry, NAMESPACE));
  }
}
