package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.HOST_READING;
import static io.flexkv.cache.EntryLayout.HOST_THERE;

import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.List;

/**
 * Takes host slots for the blocks of a chain that are on the SSD alone, and hands their reads over.
 *
 * <p>A long chain is worked off in turns of a few blocks, and its first read is handed over with
 * the first turn: the disk is busy from then on. Until the last turn is over the chain is pinned,
 * and so is the block up to which it has come: nothing above that leaves the host tier again.
 */
final class ChainReads {
  private final SsdTier tier;
  private final BlockTree tree;
  private final Copies copies;
  private final Evictor evictor;
  private final Leases leases;
  private final CacheEffects effects;
  private final OpenReads open;
  private final ArrayDeque<ChainRead> unfinished = new ArrayDeque<>();

  ChainReads(
      SsdTier tier,
      BlockTree tree,
      Evictor evictor,
      Leases leases,
      CacheEffects effects,
      OpenReads open) {
    this.tier = tier;
    this.tree = tree;
    this.copies = tree.copies();
    this.evictor = evictor;
    this.leases = leases;
    this.effects = effects;
    this.open = open;
  }

  /** Begins with the blocks [first, deep) of a lease's chain; {@code deepest} is the last one. */
  void begin(Lease lease, int first, int deep, int deepest) {
    int[] path = new int[deep - first];
    int entry = deepest;
    for (int i = path.length - 1; i >= 0; i--) {
      path[i] = entry;
      entry = tree.parent(entry);
    }
    ChainRead read = new ChainRead(lease, path, first);
    lease.reading = read;
    lease.firstRead = NONE;
    tree.pin(deepest); // or making room would remove blocks of this very path
    unfinished.add(read);
    turn(read);
  }

  /** Goes on with every chain that is not through; returns how many those were. */
  int turn() {
    int turns = unfinished.size();
    for (int i = 0; i < turns; i++) {
      ChainRead read = unfinished.getFirst();
      unfinished.addLast(unfinished.removeFirst());
      turn(read);
    }
    return turns;
  }

  private void turn(ChainRead read) {
    evictor.begin();
    int until = Math.min(read.path.length, read.done + tier.config().turnBlocks());
    boolean room = true;
    while (room && read.done < until) {
      room = take(read, read.path[read.done]);
    }
    if (!read.begun) {
      submit(read);
    }
    if (!room || read.done == read.path.length) {
      finish(read);
    }
  }

  /** Sees to one block; false if there is no room for it, or it is about to lose what it has. */
  private boolean take(ChainRead read, int block) {
    Lease lease = read.lease;
    int inHost = copies.inHost(block);
    if (inHost == HOST_NONE) {
      long bytes = lease.namespace.slotBytes();
      // Those that are there above this one stay: it is below them, or the guard is.
      long slot =
          open.bytes() + bytes > tier.config().maxReadBytes()
              ? SlotAllocator.FULL
              : evictor.allocate(lease.namespace);
      if (slot == SlotAllocator.FULL) {
        return false;
      }
      copies.startRead(block, slot, 0);
      fill(read, block, bytes);
    } else if (inHost == HOST_READING) {
      Promotion shared = open.of(block);
      if (shared != null) {
        if (shared.cancelled) {
          return false; // its blocks are about to be on the SSD alone again
        }
        join(lease, shared);
      }
    }
    if (inHost != HOST_THERE && lease.firstRead == NONE) {
      lease.firstRead = block;
    }
    tree.pin(block);
    if (read.guard != NONE) {
      tree.unpin(read.guard);
    }
    read.guard = block;
    read.done++;
    return true;
  }

  /** Reads have a bounded size so that each can be taken back alone. */
  private void fill(ChainRead read, int block, long bytes) {
    Promotion filling = read.filling;
    if (filling == null) {
      filling = open.add(tier.nextId());
      read.filling = filling;
      join(read.lease, filling);
    }
    open.put(filling, block, bytes);
    if (filling.bytes + bytes > tier.config().transferBytes()) {
      submit(read);
    }
  }

  private void submit(ChainRead read) {
    Promotion filled = read.filling;
    if (filled != null) {
      open.submitted(filled);
      read.filling = null;
      read.begun = true;
      List<Integer> entries = Arrays.stream(filled.entries).boxed().toList();
      effects.startRead(tier.begin(filled.id, entries), read.lease.asked);
    }
  }

  private static void join(Lease lease, Promotion read) {
    if (read.leases.add(lease)) {
      lease.promotions.add(read);
    }
  }

  private void finish(ChainRead read) {
    submit(read);
    Lease lease = read.lease;
    if (read.done > 0) {
      lease.promoted = read.first + read.done;
      lease.promotedFrom = read.first;
      leases.moveTo(lease, read.guard, lease.promoted);
    }
    close(read);
  }

  private void close(ChainRead read) {
    unfinished.remove(read);
    read.lease.reading = null;
    if (read.guard != NONE) {
      tree.unpin(read.guard);
    }
    tree.unpin(read.deepest());
  }

  /** A lease waits no longer. What others wait for of its last read is handed over. */
  void stop(Lease lease) {
    ChainRead read = lease.reading;
    if (read == null) {
      return;
    }
    Promotion filling = read.filling;
    if (filling != null) {
      filling.leases.remove(lease);
      lease.promotions.remove(filling);
      if (filling.wanted()) {
        submit(read);
      } else {
        open.cancelIfUnwanted(filling);
      }
    }
    close(read);
  }
}
