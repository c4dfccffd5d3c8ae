package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.HOST_READING;
import static io.flexkv.cache.EntryLayout.HOST_THERE;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Reads from the SSD into the host tier, for requests whose chain goes on there.
 *
 * <p>A request's first lookup that finds such blocks starts nothing: the engine asks it before it
 * knows what it has itself. The second one does ({@link #ask}): host slots are taken for the blocks
 * from the engine's own depth on, as far as bounds and pool allow, and reads begin. Until the first
 * of them is there, lookups say "ask again"; then the request may load all of them, and its load
 * copies each as it comes ({@link AvailableBlocks}). A request that has waited for too long, or
 * whose read failed, gets what the host tier has.
 *
 * <p>Chains that share blocks share their reads. A read that no lease and no load waits for is
 * taken back.
 */
final class Promotions {
  /** A request that was announced so long ago and not asked for waits in the engine's queue. */
  private static final long READ_AHEAD_NANOS = 200_000_000L;

  private final SsdTier tier;
  private final BlockIndex index;
  private final BlockTree tree;
  private final Copies copies;
  private final Evictor evictor;
  private final Leases leases;
  private final CacheEffects effects;
  private final Counters counters;
  private final Map<Long, Promotion> open = new HashMap<>();
  private final Map<Integer, Promotion> byReference = new HashMap<>();
  private long readingBytes;

  Promotions(
      SsdTier tier,
      BlockIndex index,
      BlockTree tree,
      Evictor evictor,
      Leases leases,
      CacheEffects effects,
      Counters counters) {
    this.tier = tier;
    this.index = index;
    this.tree = tree;
    this.copies = tree.copies();
    this.evictor = evictor;
    this.leases = leases;
    this.effects = effects;
    this.counters = counters;
  }

  boolean isOpen(long id) {
    return open.containsKey(id);
  }

  int reads() {
    return open.size();
  }

  /**
   * A lookup found that a chain goes on on the SSD: [0, hot) are in the host tier, [0, deep) in
   * some, and the engine has [0, first) itself.
   *
   * @return blocks that can be loaded now, or −1: ask again
   */
  int ask(
      RequestChain chain,
      Namespace namespace,
      int group,
      int first,
      int hot,
      int deep,
      int deepest,
      long now) {
    Lease lease = chain.lease(group);
    if (lease == null || !lease.announced) {
      lease = leases.take(chain, namespace, group, deepest, deep, now);
      lease.announced = true;
      if (first == 0) {
        return -1;
      }
    }
    leases.refresh(lease, now);
    if (lease.declined) {
      return hot;
    }
    if (!lease.asked) {
      lease.asked = true;
      lease.waitUntil = now + tier.config.waitNanos();
    }
    if (lease.promoted == 0 || first < lease.promotedFrom) {
      start(lease, first, deep, deepest, true);
    }
    if (failed(lease)) {
      return decline(lease, hot);
    }
    if (lease.promoted > first && begun(lease)) {
      counters.ssdHits += lease.firstRead == NONE ? 0 : 1; // else no room was found for any
      return Math.max(hot, Math.min(lease.promoted, deep));
    }
    return now - lease.waitUntil >= 0 ? decline(lease, hot) : -1;
  }

  /** Whether the first of its blocks that was not in the host tier is there now. */
  private boolean begun(Lease lease) {
    return lease.firstRead == NONE || copies.inHost(lease.firstRead) == HOST_THERE;
  }

  private static boolean failed(Lease lease) {
    for (Promotion read : lease.promotions) {
      if (read.failed) {
        return true;
      }
    }
    return false;
  }

  private int decline(Lease lease, int hot) {
    counters.promotionsDeclined++;
    lease.declined = true;
    left(lease);
    return hot;
  }

  /**
   * Takes host slots for the blocks [first, deep) that have none, and begins to read them. What is
   * being read already is shared.
   */
  private void start(Lease lease, int first, int deep, int deepest, boolean live) {
    int[] path = new int[deep - first];
    int entry = deepest;
    for (int i = path.length - 1; i >= 0; i--) {
      path[i] = entry;
      entry = tree.parent(entry);
    }
    List<Integer> missing = new ArrayList<>();
    long bytes = lease.namespace.slotBytes();
    int guard = NONE;
    int depth = first;
    tree.pin(deepest); // or making room would remove blocks of this very path
    evictor.begin();
    lease.firstRead = NONE;
    for (int block : path) {
      int inHost = copies.inHost(block);
      if (inHost == HOST_NONE) {
        // Those that are there above this one stay: it is below them, or the guard is.
        long slot =
            readingBytes + bytes > tier.config.maxReadBytes()
                ? SlotAllocator.FULL
                : evictor.allocate(lease.namespace);
        if (slot == SlotAllocator.FULL) {
          break;
        }
        copies.startRead(block, slot, 0);
        readingBytes += bytes;
        missing.add(block);
      } else if (inHost == HOST_READING) {
        Promotion shared = byReference.get(index.getInt(block, EntryLayout.OWNER));
        if (shared != null) {
          if (shared.cancelled) {
            break; // its blocks are about to be on the SSD alone again
          }
          join(lease, shared);
        }
      }
      if (inHost != HOST_THERE && lease.firstRead == NONE) {
        lease.firstRead = block;
      }
      if (guard != NONE) {
        tree.unpin(guard);
      }
      guard = block;
      tree.pin(guard);
      depth++;
    }
    if (depth > first) {
      leases.moveTo(lease, guard, depth);
      lease.promoted = depth;
      lease.promotedFrom = first;
    }
    if (guard != NONE) {
      tree.unpin(guard);
    }
    tree.unpin(deepest);
    submit(lease, missing, bytes, live);
  }

  /** Hands the reads over, in transfers of a bounded size so that each can be taken back alone. */
  private void submit(Lease lease, List<Integer> missing, long bytes, boolean live) {
    int most = (int) Math.max(1, tier.config.transferBytes() / bytes);
    for (int from = 0; from < missing.size(); from += most) {
      List<Integer> some = missing.subList(from, Math.min(missing.size(), from + most));
      Promotion read =
          new Promotion(
              tier.nextId(), some.stream().mapToInt(e -> e).toArray(), bytes * some.size());
      for (int entry : read.entries) {
        index.setInt(entry, EntryLayout.OWNER, read.reference);
      }
      open.put(read.id, read);
      byReference.put(read.reference, read);
      join(lease, read);
      effects.startRead(tier.begin(read.id, some), live);
    }
  }

  private static void join(Lease lease, Promotion read) {
    if (read.leases.add(lease)) {
      lease.promotions.add(read);
    }
  }

  /** A lease ends, or waits no longer: what only it wanted is taken back. */
  void left(Lease lease) {
    for (Promotion read : List.copyOf(lease.promotions)) {
      read.leases.remove(lease);
      cancelIfUnwanted(read);
    }
    lease.promotions.clear();
  }

  /** A load is planned: it waits for the blocks that are being read. Before its lease ends. */
  void attach(LoadJob job) {
    for (int entry : job.entries) {
      if (copies.inHost(entry) == HOST_READING) {
        Promotion read = byReference.get(index.getInt(entry, EntryLayout.OWNER));
        if (read != null && read.loads.add(job)) {
          job.promotions.add(read);
        }
      }
    }
    if (!job.promotions.isEmpty()) {
      counters.ssdLoads++;
    }
  }

  /** A load has ended, or is cut: it waits no longer. */
  void left(LoadJob job) {
    for (Promotion read : List.copyOf(job.promotions)) {
      read.loads.remove(job);
      cancelIfUnwanted(read);
    }
    job.promotions.clear();
  }

  private void cancelIfUnwanted(Promotion read) {
    if (!read.wanted() && !read.cancelled && open.containsKey(read.id)) {
      read.cancelled = true;
      counters.promotionsCancelled++;
      effects.cancelTransfer(read.id);
    }
  }

  /** More leading blocks of a read are in their host slots. Returns the read, null if unknown. */
  @Nullable Promotion progress(long id, int ready) {
    Promotion read = open.get(id);
    if (read == null) {
      return null;
    }
    int until = Math.min(ready, read.entries.length);
    for (; read.ready < until; read.ready++) {
      int entry = read.entries[read.ready];
      if (copies.owned(entry, read.reference)) {
        copies.readDone(entry);
        counters.promotedBlocks++;
      }
    }
    return read;
  }

  /** A read has ended: what has not come does not come. Returns it, null if unknown. */
  @Nullable Promotion ended(long id, int ready) {
    Promotion read = progress(id, ready);
    if (read == null) {
      return null;
    }
    open.remove(id);
    byReference.remove(read.reference);
    readingBytes -= read.bytes;
    read.failed = read.ready < read.entries.length;
    for (int i = read.entries.length - 1; i >= read.ready; i--) {
      if (copies.owned(read.entries[i], read.reference)) {
        counters.promotionsFailedBlocks++;
        copies.readFailed(read.entries[i]);
      }
    }
    if (!read.failed) {
      read.leases.forEach(lease -> lease.promotions.remove(read));
    }
    return read;
  }

  /** Requests that wait in the engine's queue for longer: reads ahead for them, when idle. */
  void readAhead(long now) {
    for (Lease lease : leases.announcedBefore(now - READ_AHEAD_NANOS)) {
      if (lease.promoted == 0 && !lease.declined && open.isEmpty() && tree.isReady(lease.entry)) {
        start(lease, 0, lease.depth, lease.entry, false);
      }
    }
  }
}
