package io.flexkv.cache;

import java.util.ArrayDeque;
import java.util.Deque;

/** What is written to the SSD, and when. */
class NaiveWrites extends NaiveCopies {
  private record Queued(Key key, int entry, long bytes) {}

  private final Deque<Queued> queue = new ArrayDeque<>();

  /** Whether the SSD takes no writes at present. */
  boolean stalled;

  NaiveWrites(CacheConfig config, SsdConfig ssdConfig, long hostCapacity, long ssdCapacity) {
    super(config, ssdConfig, hostCapacity, ssdCapacity);
  }

  long queuedBytes() {
    return queue.stream().mapToLong(Queued::bytes).sum();
  }

  void published(Block block) {
    if (hasSsd() && ssdConfig.writePolicy() == WritePolicy.THROUGH) {
      offer(block);
    }
  }

  void hit(Block block) {
    if (ssdConfig.writePolicy() == WritePolicy.SECOND_HIT) {
      offerChain(block);
    }
  }

  void freeAhead(Space space, long capacity) {
    if (ssdConfig.writePolicy() != WritePolicy.BACK) {
      return;
    }
    while (usedBytes(Tier.HOST) > capacity - capacity / 16) {
      Block victim = oldest(Tier.HOST, space.slotBytes);
      if (victim == null) {
        return;
      }
      if (victim.ssd == Ssd.HELD) {
        evict(Tier.HOST, victim);
      } else {
        offerChain(victim);
        pump();
        if (!victim.onSsd()) {
          return;
        }
      }
    }
  }

  private void offerChain(Block block) {
    if (block != null && block.ssd == Ssd.NONE) {
      offerChain(block.above);
      offer(block);
    }
  }

  private void offer(Block block) {
    if (block.ssd == Ssd.NONE
        && block.host == Host.THERE
        && queuedBytes() + block.space.slotBytes <= ssdConfig.maxQueuedBytes()
        && (block.above == null || block.above.ssd != Ssd.NONE)) {
      block.ssd = Ssd.QUEUED;
      queue.add(new Queued(block.key, block.entry, block.space.slotBytes));
    }
  }

  void pump() {
    while (!stalled && !queue.isEmpty() && writingBytes() < ssdConfig.maxWriteBytes()) {
      Transfer write = new Transfer();
      choose(write);
      if (!write.blocks.isEmpty()) {
        write.bytes = write.blocks.stream().mapToLong(block -> block.space.slotBytes).sum();
        writes.add(write);
        begin(write);
        startedWrites.add(write);
      }
    }
  }

  private long writingBytes() {
    return writes.stream().mapToLong(write -> write.bytes).sum();
  }

  private void choose(Transfer write) {
    mayEvictOthersAgain(Tier.SSD);
    boolean full = false;
    long bytes = 0;
    while (!queue.isEmpty()
        && (bytes == 0 || bytes + queue.peek().bytes <= ssdConfig.transferBytes())
        && writingBytes() + bytes < ssdConfig.maxWriteBytes()) {
      Queued next = queue.remove();
      Block block = blocks.get(next.key);
      if (block == null
          || block.entry != next.entry
          || block.ssd != Ssd.QUEUED
          || block.host != Host.THERE) {
        continue;
      }
      boolean placed = false;
      if (block.above == null || block.above.onSsd()) {
        placed = full ? hasRoom(Tier.SSD, next.bytes) : makeRoomBeside(block.above, block.space);
        full = !placed;
      }
      if (placed) {
        block.ssd = Ssd.WRITING;
        block.ssdRoom = new Room(next.bytes);
        block.transfer = write;
        write.blocks.add(block);
        bytes += next.bytes;
      } else {
        block.ssd = Ssd.NONE;
      }
    }
  }

  private boolean makeRoomBeside(Block kept, Space space) {
    guarded.add(kept);
    boolean room = makeRoom(Tier.SSD, space);
    guarded.removeLast();
    return room;
  }

  void begin(Transfer transfer) {
    transfer.blocks.forEach(block -> {
      transfer.hostRooms.add(block.hostRoom);
      transfer.ssdRooms.add(block.ssdRoom);
    });
    transfer.submitted = true;
    undrained.add(transfer);
  }

  void written(Transfer write, boolean[] ok, boolean drained) {
    writes.remove(write);
    for (int i = 0; i < ok.length; i++) {
      Block block = write.blocks.get(i);
      if (block.transfer == write) {
        block.transfer = null;
        Ssd above = block.above == null ? Ssd.HELD : block.above.ssd;
        if (!ok[i] || above == Ssd.NONE || above == Ssd.QUEUED) {
          dropSsd(block);
        } else if (above == Ssd.HELD) {
          hold(block);
        } else {
          block.ssd = Ssd.WRITTEN;
        }
      }
    }
    if (drained) {
      undrained.remove(write);
    }
    pump();
  }
}
