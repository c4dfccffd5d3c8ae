package io.flexkv.cache;

import io.flexkv.cache.SsdReports.Adoption;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Predicate;

/** What is read from the SSD, lost there and found again; and leases, which reads are for. */
abstract class NaiveSsd extends NaiveWrites {
  private static final long READ_AHEAD_NANOS = 200_000_000L;

  NaiveSsd(CacheConfig config, SsdConfig ssdConfig, long hostCapacity, long ssdCapacity) {
    super(config, ssdConfig, hostCapacity, ssdCapacity);
  }

  /** The blocks of a load go. */
  abstract void blocksGo(Work load);

  /** The rest of a load's blocks does not come. */
  abstract void cut(Work load);

  abstract void settleAll();

  // ------------------------------------------------------------------ reads

  Lease take(LeaseKey key, Space space, Block deepest, int depth) {
    Lease lease = leases.getOrDefault(key, new Lease());
    lease.space = space;
    if (depth > lease.depth) {
      lease.depth = depth;
      lease.deepest = deepest;
    }
    refresh(key, lease);
    return lease;
  }

  private void refresh(LeaseKey key, Lease lease) {
    leases.remove(key);
    leases.put(key, lease);
    lease.refreshed = now;
  }

  void endLeases(Predicate<LeaseKey> condition) {
    for (LeaseKey key : List.copyOf(leases.keySet())) {
      if (condition.test(key)) {
        left(leases.get(key));
        leases.remove(key);
      }
    }
  }

  /** Blocks that can be loaded now, or −1: ask again. */
  int ask(LeaseKey key, Space space, int first, int hot, int deep, Block deepest) {
    Lease lease = leases.get(key);
    if (lease == null || !lease.announced) {
      lease = take(key, space, deepest, deep);
      lease.announced = true;
      if (first == 0) {
        return -1;
      }
    }
    refresh(key, lease);
    if (lease.declined) {
      return hot;
    }
    if (!lease.asked) {
      lease.asked = true;
      lease.waitUntil = now + ssdConfig.waitNanos();
    }
    if (lease.reading == null && (lease.promoted == 0 || first < lease.promotedFrom)) {
      read(lease, first, deep, deepest);
    }
    boolean failed = lease.transfers.stream().anyMatch(read -> read.failed);
    boolean begun = lease.firstRead == null || lease.firstRead.host == Host.THERE;
    if (!failed && lease.reading == null && lease.promoted > first && begun) {
      return Math.max(hot, Math.min(lease.promoted, deep));
    }
    if (failed || now >= lease.waitUntil) {
      lease.declined = true;
      left(lease);
      return hot;
    }
    return -1;
  }

  void readAhead() {
    for (Lease lease : List.copyOf(leases.values())) {
      if (lease.refreshed < now - READ_AHEAD_NANOS
          && lease.announced
          && !lease.asked
          && lease.promoted == 0
          && lease.reading == null
          && reads.isEmpty()) {
        read(lease, 0, lease.depth, lease.deepest);
      }
    }
  }

  private void read(Lease lease, int first, int deep, Block deepest) {
    List<Block> path = new ArrayList<>();
    for (Block block = deepest; path.size() < deep - first; block = block.above) {
      path.addFirst(block);
    }
    lease.reading = new Reading(lease, path, first);
    lease.firstRead = null;
    unfinished.add(lease.reading);
    turn(lease.reading);
  }

  void turn() {
    List.copyOf(unfinished).forEach(this::turn);
  }

  private void turn(Reading reading) {
    mayEvictOthersAgain(Tier.HOST);
    int until = Math.min(reading.path.size(), reading.done + ssdConfig.turnBlocks());
    boolean room = true;
    while (room && reading.done < until) {
      room = take(reading, reading.path.get(reading.done));
    }
    if (!reading.begun) {
      submit(reading);
    }
    if (!room || reading.done == reading.path.size()) {
      submit(reading);
      if (reading.done > 0) {
        Lease lease = reading.lease;
        lease.promoted = reading.first + reading.done;
        lease.promotedFrom = reading.first;
        lease.deepest = reading.guard;
        lease.depth = lease.promoted;
      }
      close(reading);
    }
  }

  private boolean take(Reading reading, Block block) {
    Lease lease = reading.lease;
    Host was = block.host;
    if (was == Host.NONE) {
      long opened = reads.stream().mapToLong(read -> read.bytes).sum();
      if (opened + block.space.slotBytes > ssdConfig.maxReadBytes()
          || !makeRoom(Tier.HOST, block.space)) {
        return false;
      }
      block.host = Host.READING;
      block.hostRoom = new Room(block.space.slotBytes);
      fill(reading, block);
    } else if (was == Host.READING) {
      if (block.transfer.cancelled) {
        return false;
      }
      join(lease, block.transfer);
    }
    if (was != Host.THERE && lease.firstRead == null) {
      lease.firstRead = block;
    }
    reading.guard = block;
    reading.done++;
    return true;
  }

  private void fill(Reading reading, Block block) {
    if (reading.filling == null) {
      reading.filling = new Transfer();
      reads.add(reading.filling);
      join(reading.lease, reading.filling);
    }
    Transfer filling = reading.filling;
    filling.blocks.add(block);
    filling.bytes += block.space.slotBytes;
    block.transfer = filling;
    if (filling.bytes + block.space.slotBytes > ssdConfig.transferBytes()) {
      submit(reading);
    }
  }

  private static void join(Lease lease, Transfer read) {
    read.leases.add(lease);
    lease.transfers.add(read);
  }

  private void submit(Reading reading) {
    if (reading.filling != null) {
      begin(reading.filling);
      startedReads.add(reading.filling);
      reading.filling = null;
      reading.begun = true;
    }
  }

  private void close(Reading reading) {
    unfinished.remove(reading);
    reading.lease.reading = null;
  }

  /** A lease ends, or waits no longer. */
  private void left(Lease lease) {
    Reading reading = lease.reading;
    if (reading != null) {
      Transfer filling = reading.filling;
      if (filling != null) {
        filling.leases.remove(lease);
        lease.transfers.remove(filling);
        if (filling.wanted()) {
          submit(reading);
        }
        cancelIfUnwanted(filling);
      }
      close(reading);
    }
    for (Transfer read : lease.transfers) {
      read.leases.remove(lease);
      cancelIfUnwanted(read);
    }
    lease.transfers.clear();
  }

  /** A load has ended, or waits no longer. */
  void left(Work load) {
    for (Transfer read : load.transfers) {
      read.loads.remove(load);
      cancelIfUnwanted(read);
    }
    load.transfers.clear();
  }

  private void cancelIfUnwanted(Transfer read) {
    if (read.wanted() || read.cancelled || !reads.contains(read)) {
      return;
    }
    read.cancelled = true;
    if (read.submitted) {
      cancelled.add(read);
    } else {
      end(read);
    }
  }

  void attach(Work load) {
    for (Block block : load.blocks) {
      if (block.host == Host.READING) {
        block.transfer.loads.add(load);
        load.transfers.add(block.transfer);
      }
    }
    advance(load);
  }

  private void advance(Work load) {
    while (load.available < load.blocks.size()
        && load.blocks.get(load.available).host == Host.THERE) {
      load.available++;
    }
    if (load.available == load.blocks.size()) {
      left(load);
    }
  }

  void progress(Transfer read, int ready) {
    bring(read, ready);
    moved(read, false);
  }

  private void bring(Transfer read, int ready) {
    for (; read.ready < ready; read.ready++) {
      Block block = read.blocks.get(read.ready);
      if (block.transfer == read) {
        block.transfer = null;
        inHostNow(block);
      }
    }
  }

  private void moved(Transfer read, boolean over) {
    for (Work load : List.copyOf(read.loads)) {
      advance(load);
      if (over && read.failed && read.loads.contains(load)) {
        cut(load);
      }
    }
  }

  void readEnded(Transfer read, int ready, long badSlot, boolean drained) {
    bring(read, ready);
    end(read);
    if (!read.failed) {
      read.leases.forEach(lease -> lease.transfers.remove(read));
    }
    moved(read, true);
    for (Block block : read.blocks) {
      if (!block.removed && block.ssd == Ssd.HELD && block.ssdRoom.slot == badSlot) {
        lose(block);
        break;
      }
    }
    if (drained) {
      undrained.remove(read);
    }
  }

  private void end(Transfer read) {
    reads.remove(read);
    read.failed = read.ready < read.blocks.size();
    for (Block block : read.blocks.subList(read.ready, read.blocks.size())) {
      if (block.transfer == read) {
        block.transfer = null;
        block.host = Host.NONE;
      }
    }
  }

  // ------------------------------------------------------------------ losses and finds

  /** All blocks whose bytes are in these slots lose them. */
  void lost(Predicate<Long> slots) {
    Set<Block> all = new LinkedHashSet<>();
    for (Space space : spaces) {
      children(null).stream()
          .filter(root -> root.space == space)
          .forEach(root -> collect(root, all));
    }
    for (Block block : all) {
      if (block.ssd.compareTo(Ssd.WRITTEN) >= 0 && slots.test(block.ssdRoom.slot)) {
        if (block.ssd == Ssd.HELD) {
          lose(block);
        } else {
          dropSsd(block);
        }
      }
    }
  }

  private void lose(Block root) {
    List<Block> without = new ArrayList<>();
    List<Block> gone = new ArrayList<>();
    sort(root, without, gone);
    gone.forEach(this::loseTree);
    without.reversed().forEach(this::dropSsd); // what is known of a use goes to the parent
    settleAll();
  }

  private void sort(Block block, List<Block> without, List<Block> gone) {
    if (block.ssd == Ssd.HELD) {
      if (block.host == Host.THERE) {
        without.add(block);
        children(block).forEach(child -> sort(child, without, gone));
      } else {
        gone.add(block);
      }
    }
  }

  private void loseTree(Block root) {
    Set<Block> doomed = new HashSet<>();
    collect(root, doomed);
    endLeases(key -> {
      Lease lease = leases.get(key);
      return doomed.contains(lease.deepest)
          || (lease.reading != null && doomed.contains(lease.reading.path.getLast()));
    });
    for (Work work : List.copyOf(jobs.values())) {
      if (work.held != null && doomed.contains(work.held)) {
        if (work.save) {
          work.held = null;
        } else {
          blocksGo(work);
        }
      }
    }
    dropTree(root);
  }

  private void collect(Block block, Set<Block> into) {
    into.add(block);
    children(block).forEach(child -> collect(child, into));
  }

  /** A block is found in a slot of the SSD. */
  Adoption adopt(Space space, int group, long hash, Long parentHash, long slot, boolean full) {
    Block parent = parentHash == null ? null : blocks.get(new Key(space.handle, group, parentHash));
    if (parentHash != null && (parent == null || parent.ssd != Ssd.HELD)) {
      return Adoption.NO_PARENT;
    }
    Key key = new Key(space.handle, group, hash);
    Block block = blocks.get(key);
    if (block != null && (!block.ready || block.above != parent || block.onSsd())) {
      return Adoption.REFUSED;
    }
    if (full) {
      guarded.add(parent);
      Block victim = oldest(Tier.SSD, space.slotBytes);
      guarded.removeLast();
      if (victim == null) {
        return Adoption.REFUSED;
      }
      evict(Tier.SSD, victim);
    }
    if (block == null) {
      block = new Block(space, key, parent);
      block.ready = true;
      blocks.put(key, block);
    }
    block.ssdRoom = new Room(space.slotBytes);
    block.ssdRoom.slot = slot;
    hold(block);
    return Adoption.TAKEN;
  }
}
