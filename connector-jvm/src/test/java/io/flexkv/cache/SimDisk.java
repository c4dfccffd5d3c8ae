package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.function.LongPredicate;

/**
 * A simulated SSD tier: transfers go block by block in any interleaving with everything else, fail,
 * find rotten bytes, stall and go on after they were reported; reports are late, repeated, or
 * forgotten for a while. Like a real store it verifies what it reads, so a slot with another block
 * in it is the core's mistake.
 *
 * <p>What a slot was last written with outlives its use: after a {@link #crash} it is found again,
 * torn perhaps where the slot was being written anew.
 */
final class SimDisk implements SlotAllocator {
  /** What a slot holds. */
  private record Stored(BlockIdentity block, Map<Integer, Long> tags) {}

  private static final class Transfer {
    final SsdTransfer what;
    final boolean write;
    final boolean[] stored;
    int next;
    int ready;
    long badSlot = FULL;
    boolean cancelled;

    /** Its end is told while an access of it is still under way. */
    boolean stalled;

    boolean told;
    boolean drained;

    Transfer(SsdTransfer what, boolean write) {
      this.what = what;
      this.write = write;
      this.stored = new boolean[what.blocks().size()];
    }

    boolean touches(long slot, boolean host) {
      return !drained
          && Arrays.stream(host ? what.hostSlots() : what.ssdSlots()).anyMatch(s -> s == slot);
    }
  }

  private FakeSlots slots;
  private final Map<String, Integer> counts;
  private final Set<Long> torn = new HashSet<>();
  private final Map<Long, Stored> content = new LinkedHashMap<>();
  private final Map<Long, Transfer> transfers = new LinkedHashMap<>();
  private final List<Transfer> running = new ArrayList<>();
  private final List<Transfer> ended = new ArrayList<>();
  private final List<Transfer> stalled = new ArrayList<>();

  SimDisk(long capacity, Map<String, Integer> counts) {
    slots = new FakeSlots(capacity);
    this.counts = counts;
  }

  @Override
  public long allocate(long slotBytes) {
    return slots.allocate(slotBytes);
  }

  @Override
  public void free(long slot) {
    if (touches(slot, false)) {
      throw new AssertionError("SSD slot " + slot + " is freed while a transfer may touch it");
    }
    slots.free(slot);
  }

  /** Has another capacity from now on; what it holds beyond that is to go. */
  void resize(long bytes) {
    slots.resize(bytes);
  }

  @Override
  public boolean shrinks() {
    return slots.shrinks();
  }

  @Override
  public boolean leaves(long slot) {
    return slots.leaves(slot);
  }

  @Override
  public long capacityBytes() {
    return slots.capacityBytes();
  }

  @Override
  public long usedBytes() {
    return slots.usedBytes();
  }

  int taken() {
    return slots.taken();
  }

  boolean touches(long slot, boolean host) {
    return transfers.values().stream().anyMatch(transfer -> transfer.touches(slot, host));
  }

  void start(SsdTransfer what, boolean write) {
    Transfer transfer = new Transfer(what, write);
    transfers.put(what.id(), transfer);
    running.add(transfer);
  }

  void cancel(long id) {
    counts.merge("read cancelled", 1, Integer::sum);
    transfers.get(id).cancelled = true;
  }

  /** Does one block's access of some transfer, or lets a stalled one come back. */
  void advance(Random random, SimSlots host) {
    if (!stalled.isEmpty() && random.nextInt(20) == 0) {
      Transfer back = stalled.remove(random.nextInt(stalled.size()));
      if (!back.write) {
        host.write(back.what.hostSlots()[back.next], 0, random.nextLong());
      }
      back.stalled = false;
    }
    if (running.isEmpty()) {
      return;
    }
    Transfer transfer = running.get(random.nextInt(running.size()));
    if (transfer.cancelled && random.nextBoolean()) {
      end(transfer);
      return;
    }
    int i = transfer.next;
    if (random.nextInt(90) == 0) {
      counts.merge("transfer stalled", 1, Integer::sum);
      transfer.stalled = true;
      stalled.add(transfer);
      end(transfer);
      return;
    }
    if (transfer.write) {
      write(transfer, i, random, host);
    } else if (!read(transfer, i, random, host)) {
      end(transfer);
      return;
    }
    transfer.next++;
    if (transfer.next == transfer.stored.length) {
      end(transfer);
    }
  }

  private void write(Transfer transfer, int i, Random random, SimSlots host) {
    if (random.nextInt(40) == 0) {
      counts.merge("block not written", 1, Integer::sum);
      tear(transfer.what.ssdSlots()[i]);
      return;
    }
    long slot = transfer.what.ssdSlots()[i];
    content.put(
        slot, new Stored(transfer.what.blocks().get(i), host.copy(transfer.what.hostSlots()[i])));
    torn.remove(slot);
    transfer.stored[i] = true;
  }

  /** Its header is still the old one, its bytes are not. */
  private void tear(long slot) {
    Stored before = content.get(slot);
    if (before != null) {
      content.put(slot, new Stored(before.block, Map.of()));
      torn.add(slot);
    }
  }

  private boolean read(Transfer transfer, int i, Random random, SimSlots host) {
    long slot = transfer.what.ssdSlots()[i];
    Stored found = content.get(slot);
    if (found == null || !found.block.equals(transfer.what.blocks().get(i))) {
      throw new AssertionError(
          "SSD slot %d holds %s, wanted %s".formatted(slot, found, transfer.what.blocks().get(i)));
    }
    if (torn.contains(slot) || random.nextInt(60) == 0) {
      counts.merge(torn.contains(slot) ? "torn block" : "rotten block", 1, Integer::sum);
      host.write(transfer.what.hostSlots()[i], 0, random.nextLong());
      transfer.badSlot = slot;
      return false;
    }
    if (random.nextInt(60) == 0) {
      counts.merge("read failed", 1, Integer::sum);
      return false;
    }
    host.paste(transfer.what.hostSlots()[i], found.tags);
    transfer.ready++;
    counts.merge("block read", 1, Integer::sum);
    return true;
  }

  private void end(Transfer transfer) {
    running.remove(transfer);
    ended.add(transfer);
  }

  /** Reports something that has happened, or again what it reported before. */
  void report(Random random, SsdReports core) {
    if (!running.isEmpty() && random.nextInt(3) == 0) {
      Transfer transfer = running.get(random.nextInt(running.size()));
      if (!transfer.write) {
        core.readProgress(transfer.what.id(), transfer.ready);
      }
    }
    if (!ended.isEmpty()) {
      Transfer transfer = ended.get(random.nextInt(ended.size()));
      if (!transfer.told) {
        boolean drained = !transfer.stalled;
        transfer.told = true;
        transfer.drained = drained;
        tellEnd(transfer, core, drained);
      } else if (random.nextInt(4) == 0) {
        counts.merge("transfer told twice", 1, Integer::sum);
        tellEnd(transfer, core, !transfer.stalled && transfer.drained);
      } else if (!transfer.stalled) {
        if (!transfer.drained) {
          transfer.drained = true;
          core.drained(transfer.what.id());
        }
        ended.remove(transfer);
        transfers.remove(transfer.what.id());
      }
    }
  }

  private static void tellEnd(Transfer transfer, SsdReports core, boolean drained) {
    if (transfer.write) {
      core.written(transfer.what.id(), transfer.stored, drained);
    } else {
      core.readEnded(transfer.what.id(), transfer.ready, transfer.badSlot, drained);
    }
  }

  /** A part of the disk is gone. */
  void lose(LongPredicate lost, SsdReports core) {
    counts.merge("directory lost", 1, Integer::sum);
    core.lost(lost);
  }

  boolean idle() {
    return running.isEmpty() && ended.isEmpty() && stalled.isEmpty();
  }

  /**
   * The process ends at once: transfers stop where they are. What the next one finds, parents
   * before their children; the slots of all of it are taken.
   */
  List<Map.Entry<Long, BlockIdentity>> crash(Random random) {
    for (Transfer transfer : transfers.values()) {
      // Several blocks of a transfer are under way at a time.
      for (int i = transfer.next; transfer.write && i < transfer.stored.length; i++) {
        if (random.nextInt(4) > 0) {
          tear(transfer.what.ssdSlots()[i]);
        }
      }
    }
    List.of(running, ended, stalled).forEach(List::clear);
    transfers.clear();
    FakeSlots before = slots;
    slots = new FakeSlots(before.capacityBytes());
    List<Map.Entry<Long, BlockIdentity>> found = new ArrayList<>();
    for (boolean held : new boolean[] {true, false}) {
      content.forEach((slot, stored) -> {
        if (before.isTaken(slot) == held
            && (held || !before.leaves(slot))
            && slots.take(slot, stored.block.slotBytes())) {
          found.add(Map.entry(slot, stored.block));
        }
      });
    }
    content.keySet().removeIf(slot -> !slots.isTaken(slot));
    // The last three digits of a hash are its place in the chain.
    found.sort(Comparator.comparingLong(entry -> entry.getValue().hashLo() % 1000));
    return found;
  }

  boolean isTorn(long slot) {
    return torn.contains(slot);
  }

  long tag(long slot, int part) {
    Stored stored = content.get(slot);
    return stored == null ? -1 : stored.tags.getOrDefault(part, -1L);
  }
}
