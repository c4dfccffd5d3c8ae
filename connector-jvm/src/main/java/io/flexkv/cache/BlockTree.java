package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.ATTEMPT_INDEX;
import static io.flexkv.cache.EntryLayout.CHILDREN;
import static io.flexkv.cache.EntryLayout.COMPLETE;
import static io.flexkv.cache.EntryLayout.FIRST_CHILD;
import static io.flexkv.cache.EntryLayout.GROUP;
import static io.flexkv.cache.EntryLayout.HASH;
import static io.flexkv.cache.EntryLayout.HOST;
import static io.flexkv.cache.EntryLayout.HOST_CHILDREN;
import static io.flexkv.cache.EntryLayout.HOST_NONE;
import static io.flexkv.cache.EntryLayout.HOST_THERE;
import static io.flexkv.cache.EntryLayout.NAMESPACE;
import static io.flexkv.cache.EntryLayout.NEXT_SIBLING;
import static io.flexkv.cache.EntryLayout.OWNER;
import static io.flexkv.cache.EntryLayout.PARENT;
import static io.flexkv.cache.EntryLayout.PENDING;
import static io.flexkv.cache.EntryLayout.PINS;
import static io.flexkv.cache.EntryLayout.PREVIOUS_SIBLING;
import static io.flexkv.cache.EntryLayout.READY;
import static io.flexkv.cache.EntryLayout.SLOT;
import static io.flexkv.cache.EntryLayout.SSD_HELD;
import static io.flexkv.cache.EntryLayout.SSD_HELD_CHILDREN;
import static io.flexkv.cache.EntryLayout.STATE;

import java.util.function.IntConsumer;

/**
 * The blocks as trees: an entry exists only while its parent does, and is servable only while its
 * parent is. All changes of entries go through here, so these two rules are kept in one place.
 */
final class BlockTree {
  private final BlockIndex index;
  private final Namespaces namespaces;
  private final AttemptTable attempts;
  private final SlotPool pool;
  private final Copies copies;
  private final Counters counters;
  private IntConsumer published = entry -> {};
  private int ready;

  BlockTree(
      BlockIndex index,
      Namespaces namespaces,
      AttemptTable attempts,
      SlotPool pool,
      Copies copies,
      Counters counters) {
    this.index = index;
    this.namespaces = namespaces;
    this.attempts = attempts;
    this.pool = pool;
    this.copies = copies;
    this.counters = counters;
  }

  Copies copies() {
    return copies;
  }

  /** Who is told of each block that a save made servable. */
  void onPublished(IntConsumer listener) {
    published = listener;
  }

  int find(KeyProbe key) {
    return index.find(key.hi(), key.lo());
  }

  boolean isReady(int entry) {
    return index.getInt(entry, STATE) == READY;
  }

  int parent(int entry) {
    return index.getInt(entry, PARENT);
  }

  long slot(int entry) {
    return index.getLong(entry, SLOT);
  }

  boolean hasKey(int entry, KeyProbe key) {
    return index.getLong(entry, EntryLayout.KEY_HI) == key.hi()
        && index.getLong(entry, EntryLayout.KEY_LO) == key.lo();
  }

  int readyBlocks() {
    return ready;
  }

  int pendingBlocks() {
    return index.size() - ready;
  }

  void pin(int entry) {
    index.setInt(entry, PINS, index.getInt(entry, PINS) + 1);
    copies.needed(entry);
  }

  void unpin(int entry) {
    int pins = index.getInt(entry, PINS) - 1;
    if (pins < 0) {
      throw new IllegalStateException("entry " + entry + " is not pinned");
    }
    index.setInt(entry, PINS, pins);
    if (pins == 0) {
      copies.released(entry);
    }
  }

  /** Whether a lease, a load or a save needs it. */
  boolean isPinned(int entry) {
    return index.getInt(entry, PINS) != 0;
  }

  /** Adds a block on its way in, under a parent (or NONE). */
  int add(
      Namespace namespace,
      int group,
      KeyProbe key,
      long hash,
      int parent,
      long slot,
      int attempt,
      int attemptIndex) {
    int entry = index.insert(key.hi(), key.lo());
    index.setLong(entry, SLOT, slot);
    index.setLong(entry, HASH, hash);
    index.setInt(entry, NAMESPACE, namespace.handle());
    index.setInt(entry, GROUP, group);
    index.setInt(entry, STATE, PENDING);
    index.setInt(entry, OWNER, attempt);
    index.setInt(entry, ATTEMPT_INDEX, attemptIndex);
    attach(namespace, entry, parent);
    index.setInt(entry, HOST, HOST_THERE);
    copies.addTo(entry, HOST_CHILDREN, 1);
    return entry;
  }

  /** Adds a block that was found on the SSD, under a parent that is held there (or NONE). */
  int addHeld(Namespace namespace, int group, KeyProbe key, long hash, int parent, long ssdSlot) {
    int entry = index.insert(key.hi(), key.lo());
    index.setLong(entry, HASH, hash);
    index.setInt(entry, NAMESPACE, namespace.handle());
    index.setInt(entry, GROUP, group);
    attach(namespace, entry, parent);
    index.setInt(entry, STATE, READY);
    ready++;
    copies.adopt(entry, ssdSlot);
    return entry;
  }

  /** All parts of a pending block are in: publishes it and what waits for it, if its turn is. */
  void complete(int entry) {
    index.setInt(entry, STATE, COMPLETE);
    index.setInt(entry, OWNER, NONE);
    int parent = parent(entry);
    if (parent != NONE && !isReady(parent)) {
      return;
    }
    // Walks the complete blocks below depth first; the links are the stack.
    publish(entry);
    int node = entry;
    int child = index.getInt(node, FIRST_CHILD);
    while (true) {
      if (child == NONE) {
        if (node == entry) {
          return;
        }
        child = index.getInt(node, NEXT_SIBLING);
        node = parent(node);
      } else if (index.getInt(child, STATE) == COMPLETE) {
        publish(child);
        node = child;
        child = index.getInt(node, FIRST_CHILD);
      } else {
        child = index.getInt(child, NEXT_SIBLING);
      }
    }
  }

  /** Drops a block that is not servable, and everything below it. */
  void drop(int entry, DropReason reason) {
    if (isReady(entry)) {
      throw new IllegalStateException("entry " + entry + " is servable");
    }
    removeSubtree(entry, reason);
  }

  /** Evicts what a tier's policy has chosen; the block goes if that was its only copy. */
  void evict(Tier tier, int entry) {
    if (!Copies.evictable(tier, index, entry)) {
      throw new IllegalStateException("entry " + entry + " is in use");
    }
    if (tier == Tier.HOST) {
      counters.evictedBlocks++;
      if (copies.onSsd(entry) == SSD_HELD) {
        copies.dropHost(entry);
        return;
      }
    } else {
      counters.ssdEvictedBlocks++;
      if (copies.inHost(entry) != HOST_NONE) {
        copies.dropSsd(entry);
        return;
      }
    }
    remove(entry);
  }

  /** Removes a block and everything below it. Nothing but pending saves may refer to it. */
  void lose(int entry) {
    removeSubtree(entry, DropReason.PARENT_LOST);
  }

  /**
   * Shows a block and what is below it to a visitor, each after all that is below it, so many at
   * most.
   */
  void leavesFirst(int root, int most, IntConsumer visitor) {
    int node = firstLeaf(root);
    for (int seen = 1; seen < most && node != root; seen++) {
      visitor.accept(node);
      int sibling = index.getInt(node, NEXT_SIBLING);
      node = sibling == NONE ? parent(node) : firstLeaf(sibling);
    }
    visitor.accept(node);
  }

  private int firstLeaf(int entry) {
    int leaf = entry;
    for (int child = entry; child != NONE; child = index.getInt(child, FIRST_CHILD)) {
      leaf = child;
    }
    return leaf;
  }

  /** Removes every block of a namespace. No lease, load or save may refer to one. */
  void clear(Namespace namespace) {
    namespace.clearing(true);
    while (namespace.firstRoot != NONE) {
      removeSubtree(namespace.firstRoot, DropReason.RESET);
    }
    namespace.clearing(false);
  }

  private void publish(int entry) {
    index.setInt(entry, STATE, READY);
    index.setInt(entry, SSD_HELD_CHILDREN, 0);
    ready++;
    counters.savedBlocks++;
    copies.inHostNow(entry);
    published.accept(entry);
  }

  /** Removes a subtree, leaves first; the links are the stack. */
  private void removeSubtree(int root, DropReason reason) {
    int node = root;
    while (true) {
      int child = index.getInt(node, FIRST_CHILD);
      if (child != NONE) {
        node = child;
        continue;
      }
      int parent = parent(node);
      if (!isReady(node)) {
        counters.drop(node == root ? reason : below(reason), 1);
      }
      remove(node);
      if (node == root) {
        return;
      }
      node = parent;
    }
  }

  private static DropReason below(DropReason reason) {
    return reason == DropReason.RESET ? reason : DropReason.PARENT_LOST;
  }

  private void remove(int entry) {
    Namespace namespace = namespaces.require(index.getInt(entry, NAMESPACE));
    detach(namespace, entry);
    if (isReady(entry)) {
      ready--;
      copies.remove(entry);
    } else {
      copies.leaveHost(entry);
      giveUpSlot(entry);
    }
    int parent = parent(entry);
    if (parent != NONE && index.getInt(parent, CHILDREN) == 0) {
      copies.released(parent);
    }
    index.remove(entry);
  }

  private void giveUpSlot(int entry) {
    int reference = index.getInt(entry, OWNER);
    if (reference == NONE || attempts.drop(reference, index.getInt(entry, ATTEMPT_INDEX))) {
      pool.retire(slot(entry));
    } else {
      pool.quarantineWritten();
    }
  }

  private void attach(Namespace namespace, int entry, int parent) {
    int next;
    if (parent == NONE) {
      next = namespace.firstRoot;
      namespace.firstRoot = entry;
    } else {
      next = index.getInt(parent, FIRST_CHILD);
      index.setInt(parent, FIRST_CHILD, entry);
      index.setInt(parent, CHILDREN, index.getInt(parent, CHILDREN) + 1);
    }
    index.setInt(entry, PARENT, parent);
    index.setInt(entry, NEXT_SIBLING, next);
    if (next != NONE) {
      index.setInt(next, PREVIOUS_SIBLING, entry);
    }
  }

  private void detach(Namespace namespace, int entry) {
    int parent = parent(entry);
    int previous = index.getInt(entry, PREVIOUS_SIBLING);
    int next = index.getInt(entry, NEXT_SIBLING);
    if (previous != NONE) {
      index.setInt(previous, NEXT_SIBLING, next);
    } else if (parent == NONE) {
      namespace.firstRoot = next;
    } else {
      index.setInt(parent, FIRST_CHILD, next);
    }
    if (next != NONE) {
      index.setInt(next, PREVIOUS_SIBLING, previous);
    }
    if (parent != NONE) {
      index.setInt(parent, CHILDREN, index.getInt(parent, CHILDREN) - 1);
    }
  }
}
