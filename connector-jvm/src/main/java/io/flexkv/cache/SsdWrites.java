package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_THERE;
import static io.flexkv.cache.EntryLayout.SSD_HELD;
import static io.flexkv.cache.EntryLayout.SSD_NONE;
import static io.flexkv.cache.EntryLayout.SSD_QUEUED;
import static io.flexkv.cache.EntryLayout.SSD_WRITING;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Writes from the host tier to the SSD. Which blocks, says the policy; in which order, the chains:
 * a block is queued only if its parent is on the SSD or on its way there. The queue is bounded in
 * bytes, and so is what is being written: a save never waits for a disk, a block that finds no room
 * here is simply not on the SSD.
 */
final class SsdWrites {
  /** A block that waits: its handle may belong to another one when its turn comes. */
  private record Queued(int entry, long keyHi, long keyLo, long bytes) {}

  @SuppressWarnings("ArrayRecordComponent") // made for it and never changed
  private record Open(int[] entries, long bytes) {}

  /** Blocks that one plan makes room of at most: lookups wait meanwhile. */
  private static final int AHEAD_MAX = 1024;

  /** Free share of the host tier that write-back keeps, as a divisor. */
  private static final int FREE_DIVISOR = 16;

  private final SsdTier tier;
  private final BlockIndex index;
  private final Namespaces namespaces;
  private final BlockTree tree;
  private final Copies copies;
  private final SlotPool host;
  private final CacheEffects effects;
  private final Counters counters;
  private final ArrayDeque<Queued> queue = new ArrayDeque<>();
  private final Map<Long, Open> open = new HashMap<>();
  private long queuedBytes;
  private long writingBytes;

  SsdWrites(
      SsdTier tier,
      BlockIndex index,
      Namespaces namespaces,
      BlockTree tree,
      SlotPool host,
      CacheEffects effects,
      Counters counters) {
    this.tier = tier;
    this.index = index;
    this.namespaces = namespaces;
    this.tree = tree;
    this.copies = tree.copies();
    this.host = host;
    this.effects = effects;
    this.counters = counters;
  }

  boolean isOpen(long id) {
    return open.containsKey(id);
  }

  int writes() {
    return open.size();
  }

  long queuedBytes() {
    return queuedBytes;
  }

  /** A save made this block servable. */
  void published(int entry) {
    if (tier.config().writePolicy() == WritePolicy.THROUGH) {
      offer(entry);
    }
  }

  /** A lookup found this block, and so all above it. */
  void hit(int entry) {
    if (tier.config().writePolicy() == WritePolicy.SECOND_HIT) {
      offerChain(entry);
    }
  }

  /** Write-back: frees a share of the host tier ahead of need, and writes what would be lost. */
  void freeAhead(Namespace namespace) {
    if (tier.config().writePolicy() != WritePolicy.BACK) {
      return;
    }
    long wanted = host.capacityBytes() - host.capacityBytes() / FREE_DIVISOR;
    for (int i = 0; i < AHEAD_MAX && host.usedBytes() > wanted; i++) {
      int victim = namespace.hostPolicy().victim();
      if (victim == NONE) {
        return;
      }
      if (copies.onSsd(victim) == SSD_HELD) {
        tree.evict(Tier.HOST, victim);
        continue;
      }
      offerChain(victim);
      pump();
      if (copies.onSsd(victim) < SSD_WRITING) {
        return; // no room to write it now; if it must go before there is, it is lost
      }
    }
  }

  /**
   * Write-back: this block is about to lose its host copy.
   *
   * @return whether it would be lost now and may be on the SSD soon
   */
  boolean savesBeforeItGoes(int entry) {
    if (tier.config().writePolicy() != WritePolicy.BACK || copies.onSsd(entry) == SSD_HELD) {
      return false;
    }
    offerChain(entry);
    pump();
    return copies.onSsd(entry) != SSD_NONE || !queue.isEmpty();
  }

  /**
   * Queues a block and those above it that are not on the SSD yet, the first of the chain first.
   */
  private void offerChain(int entry) {
    List<Integer> missing = new ArrayList<>();
    for (int at = entry; at != NONE && copies.onSsd(at) == SSD_NONE; at = tree.parent(at)) {
      missing.add(at);
    }
    for (int block : missing.reversed()) {
      offer(block);
    }
  }

  private void offer(int entry) {
    if (copies.onSsd(entry) != SSD_NONE || copies.inHost(entry) != HOST_THERE) {
      return;
    }
    long bytes = namespace(entry).slotBytes();
    int parent = tree.parent(entry);
    if (queuedBytes + bytes > tier.config().maxQueuedBytes()
        || (parent != NONE && copies.onSsd(parent) == SSD_NONE)) {
      counters.ssdWritesSkipped++;
      return;
    }
    copies.queue(entry);
    queue.add(
        new Queued(
            entry,
            index.getLong(entry, EntryLayout.KEY_HI),
            index.getLong(entry, EntryLayout.KEY_LO),
            bytes));
    queuedBytes += bytes;
  }

  /** Starts as many writes as may run. While the SSD takes none, what is queued waits. */
  void pump() {
    if (queue.isEmpty() || !tier.slots.serves()) {
      return;
    }
    while (!queue.isEmpty() && writingBytes < tier.config().maxWriteBytes()) {
      long id = tier.nextId();
      List<Integer> chosen = choose(SsdTier.reference(id));
      if (chosen.isEmpty()) {
        continue;
      }
      long bytes = 0;
      for (int entry : chosen) {
        bytes += namespace(entry).slotBytes();
      }
      writingBytes += bytes;
      open.put(id, new Open(chosen.stream().mapToInt(e -> e).toArray(), bytes));
      effects.startWrite(tier.begin(id, chosen));
    }
  }

  /** Takes the next blocks out of the queue, and gives those that can be written their slots. */
  private List<Integer> choose(int reference) {
    List<Integer> chosen = new ArrayList<>();
    boolean full = false;
    long bytes = 0;
    for (Queued next = queue.peek();
        next != null
            && (bytes == 0 || bytes + next.bytes <= tier.config().transferBytes())
            && writingBytes + bytes < tier.config().maxWriteBytes();
        next = queue.peek()) {
      queue.remove();
      queuedBytes -= next.bytes;
      if (!isQueued(next)) {
        continue;
      }
      int parent = tree.parent(next.entry);
      long slot = SlotAllocator.FULL;
      if (parent == NONE || copies.onSsd(parent) >= SSD_WRITING) {
        // Where evicting gave no room, evicting more for the next block would only lose more.
        slot =
            full
                ? tier.slots.allocate(namespace(next.entry).slotBytes())
                : place(next.entry, parent, chosen.isEmpty());
        full = slot == SlotAllocator.FULL;
      }
      if (slot == SlotAllocator.FULL) {
        copies.unqueue(next.entry);
        counters.ssdWritesSkipped++;
        continue;
      }
      copies.startWrite(next.entry, slot, reference);
      chosen.add(next.entry);
      bytes += next.bytes;
    }
    return chosen;
  }

  /** A slot, at the cost of others, but not of the parent; the first of a write may cost more. */
  private long place(int entry, int parent, boolean first) {
    if (parent != NONE) {
      tree.pin(parent);
    }
    if (first) {
      tier.evictor.begin(namespace(entry), 1);
    }
    long slot = tier.evictor.allocate(namespace(entry));
    if (parent != NONE) {
      tree.unpin(parent);
    }
    return slot;
  }

  private boolean isQueued(Queued block) {
    return index.getLong(block.entry, EntryLayout.KEY_HI) == block.keyHi
        && index.getLong(block.entry, EntryLayout.KEY_LO) == block.keyLo
        && tree.isReady(block.entry)
        && copies.onSsd(block.entry) == SSD_QUEUED
        && copies.inHost(block.entry) == HOST_THERE;
  }

  /** See {@link SsdReports#written}. */
  boolean done(long id, boolean[] stored) {
    Open write = open.remove(id);
    if (write == null) {
      return false;
    }
    writingBytes -= write.bytes;
    for (int i = 0; i < write.entries.length; i++) {
      int entry = write.entries[i];
      if (!copies.owned(entry, SsdTier.reference(id))) {
        continue;
      }
      if (i < stored.length && stored[i]) {
        counters.ssdWrittenBlocks++;
        copies.written(entry);
      } else {
        counters.ssdWritesFailed++;
        copies.writeFailed(entry);
      }
    }
    return true;
  }

  private Namespace namespace(int entry) {
    return namespaces.require(index.getInt(entry, EntryLayout.NAMESPACE));
  }
}
