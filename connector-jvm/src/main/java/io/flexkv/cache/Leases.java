package io.flexkv.cache;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/**
 * The leases, in the order in which they were refreshed, which is the order in which they expire.
 */
final class Leases {
  private final BlockTree tree;
  private Consumer<Lease> onEnd = lease -> {};
  private @Nullable Lease first;
  private @Nullable Lease last;
  private int size;
  private long lastId;

  Leases(BlockTree tree) {
    this.tree = tree;
  }

  /** Who is told of each lease that ends. */
  void onEnd(Consumer<Lease> listener) {
    onEnd = listener;
  }

  int size() {
    return size;
  }

  /** Takes or refreshes the lease of a chain; it never gets shallower. */
  Lease take(RequestChain chain, Namespace namespace, int group, int entry, int depth, long now) {
    Lease lease = chain.lease(group);
    if (lease == null) {
      lease = new Lease(++lastId, chain, namespace, group);
      lease.entry = entry;
      lease.depth = depth;
      tree.pin(entry);
      chain.setLease(group, lease);
      size++;
    } else {
      unlink(lease);
      if (depth > lease.depth) {
        tree.pin(entry);
        tree.unpin(lease.entry);
        lease.entry = entry;
        lease.depth = depth;
      }
    }
    lease.refreshedAt = now;
    linkLast(lease);
    return lease;
  }

  void refresh(Lease lease, long now) {
    unlink(lease);
    lease.refreshedAt = now;
    linkLast(lease);
  }

  /** Pins another block of the chain, deeper or not. */
  void moveTo(Lease lease, int entry, int depth) {
    tree.pin(entry);
    tree.unpin(lease.entry);
    lease.entry = entry;
    lease.depth = depth;
  }

  /** Leases on SSD blocks that were taken so long ago and have not been asked for again. */
  List<Lease> announcedBefore(long time) {
    List<Lease> result = new ArrayList<>();
    for (Lease lease = first; lease != null && lease.refreshedAt - time < 0; lease = lease.later) {
      if (lease.announced && !lease.asked) {
        result.add(lease);
      }
    }
    return result;
  }

  void end(Lease lease) {
    onEnd.accept(lease);
    unlink(lease);
    tree.unpin(lease.entry);
    lease.chain.setLease(lease.group, null);
    size--;
  }

  /** Ends the lease of a chain in one group, if there is one. */
  void end(RequestChain chain, int group) {
    Lease lease = chain.lease(group);
    if (lease != null) {
      end(lease);
    }
  }

  void endAll(RequestChain chain) {
    for (int group = 0; group < chain.leaseSlots(); group++) {
      end(chain, group);
    }
  }

  void endWhere(Predicate<Lease> condition) {
    for (Lease lease = first; lease != null; ) {
      Lease next = lease.later;
      if (condition.test(lease)) {
        end(lease);
      }
      lease = next;
    }
  }

  void expire(long now, long leaseNanos) {
    while (first != null && now - first.refreshedAt >= leaseNanos) {
      end(first);
    }
  }

  private void linkLast(Lease lease) {
    lease.earlier = last;
    lease.later = null;
    if (last == null) {
      first = lease;
    } else {
      last.later = lease;
    }
    last = lease;
  }

  private void unlink(Lease lease) {
    if (lease.earlier == null) {
      first = lease.later;
    } else {
      lease.earlier.later = lease.later;
    }
    if (lease.later == null) {
      last = lease.earlier;
    } else {
      lease.later.earlier = lease.earlier;
    }
  }
}
