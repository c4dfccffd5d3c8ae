package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.NaiveState.Block;
import io.flexkv.cache.NaiveState.Host;
import io.flexkv.cache.NaiveState.Ssd;
import io.flexkv.cache.NaiveState.Transfer;
import io.flexkv.cache.SsdReports.Adoption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What an SSD tells a core and its reference, at random: how transfers went, what is lost, what was
 * found. And what is in the slots of both tiers: instead of bytes, whose they are.
 */
final class ModelDisk {
  /** The bytes of a block. */
  private record Bytes(NaiveState.Key key, int generation) {}

  private final ModelRun run;
  private final Map<Long, Bytes> inHost = new HashMap<>();
  private final Map<Long, Bytes> onSsd = new HashMap<>();

  /** How each block that was ever written is known to the disk. */
  private final Map<Bytes, BlockIdentity> known = new LinkedHashMap<>();

  ModelDisk(ModelRun run) {
    this.run = run;
  }

  private static Bytes bytes(Block block) {
    return new Bytes(block.key, block.space.generation);
  }

  void known(Block block, BlockIdentity identity) {
    known.put(new Bytes(block.key, identity.generation()), identity);
  }

  /** What a save brought in whole is in its slots. */
  void saved(NaiveState.Work save) {
    for (Block block : save.blocks) {
      if (block.whole && !block.removed) {
        inHost.put(block.hostRoom.slot, bytes(block));
      }
    }
  }

  void checkBytes(Block block) {
    if (block.whole && block.host == Host.THERE) {
      assertThat(inHost.get(block.hostRoom.slot)).as("host bytes").isEqualTo(bytes(block));
    }
    if (block.ssd == Ssd.HELD) {
      assertThat(onSsd.get(block.ssdRoom.slot)).as("SSD bytes").isEqualTo(bytes(block));
    }
  }

  void act() {
    int draw = run.random.nextInt(300);
    if (draw < 80) {
      read();
    } else if (draw < 180) {
      write();
    } else if (draw < 240) {
      drained();
    } else if (draw < 280) {
      turn();
    } else if (draw < 286) {
      lost();
    } else if (draw < 292) {
      found();
    } else if (draw < 297) {
      stall();
    } else {
      restart();
    }
  }

  void turn() {
    run.step = "turn";
    run.core.turn();
    run.model.turn();
  }

  void read() {
    List<Transfer> open = run.model.reads.stream().filter(read -> read.started != null).toList();
    if (open.isEmpty()) {
      run.step = "progress of an unknown read";
      run.core.ssd().readProgress(1_000_000, 3);
      return;
    }
    Transfer read = open.get(run.random.nextInt(open.size()));
    SsdTransfer is = read.started;
    int left = read.blocks.size() - read.ready;
    int ready = read.ready + run.random.nextInt(left + 1);
    for (int i = read.ready; i < ready; i++) {
      inHost.put(is.hostSlots()[i], onSsd.get(is.ssdSlots()[i]));
      count(true, "block read");
    }
    if (run.random.nextInt(3) > 0) {
      run.step = "read %d progresses to %d".formatted(is.id(), ready);
      run.core.ssd().readProgress(is.id(), ready);
      run.model.progress(read, ready);
      return;
    }
    boolean rotten = ready < read.blocks.size() && run.random.nextInt(3) == 0;
    long bad = rotten ? is.ssdSlots()[ready] : SlotAllocator.FULL;
    boolean drained = run.random.nextInt(4) > 0;
    boolean cuts = ready < read.blocks.size() && !read.loads.isEmpty();
    run.step =
        "read %d ends at %d, bad slot %d, drained %s".formatted(is.id(), ready, bad, drained);
    run.core.ssd().readEnded(is.id(), ready, bad, drained);
    run.model.readEnded(read, ready, bad, drained);
    count(rotten, "rotten block");
    count(cuts, "load cut");
  }

  void write() {
    if (run.model.writes.isEmpty()) {
      run.step = "an unknown write ends";
      run.core.ssd().written(1_000_000, new boolean[3], true);
      return;
    }
    Transfer write = run.model.writes.get(run.random.nextInt(run.model.writes.size()));
    SsdTransfer is = write.started;
    boolean[] ok = new boolean[write.blocks.size()];
    Arrays.fill(ok, true);
    if (run.random.nextInt(5) == 0) {
      ok[run.random.nextInt(ok.length)] = false;
    }
    for (int i = 0; i < ok.length; i++) {
      onSsd.put(is.ssdSlots()[i], ok[i] ? inHost.get(is.hostSlots()[i]) : null);
      count(true, ok[i] ? "written" : "not written");
    }
    boolean drained = run.random.nextInt(4) > 0;
    run.step = "write %d ends %s, drained %s".formatted(is.id(), Arrays.toString(ok), drained);
    run.core.ssd().written(is.id(), ok, drained);
    run.model.written(write, ok, drained);
  }

  private void drained() {
    run.step = "drained";
    List<Transfer> some = List.copyOf(run.model.undrained);
    if (some.isEmpty()) {
      run.core.ssd().drained(1_000_000);
      return;
    }
    Transfer transfer = some.get(run.random.nextInt(some.size()));
    run.step = "drained " + transfer.started.id();
    run.core.ssd().drained(transfer.started.id());
    if (!run.model.reads.contains(transfer) && !run.model.writes.contains(transfer)) {
      run.model.undrained.remove(transfer);
    }
  }

  /** A directory goes, with every third slot. */
  private void lost() {
    long third = run.random.nextInt(3);
    run.step = "lost " + third;
    run.core.ssd().lost(slot -> slot % 3 == third);
    run.model.lost(slot -> slot % 3 == third);
    count(true, "directory lost");
  }

  /** A directory comes back: some of what was ever written is found, parents first. */
  private void found() {
    run.step = "found";
    for (BlockIdentity identity : inOrder(known.values())) {
      long slot =
          run.random.nextBoolean()
              ? run.ssdSlots.allocate(identity.slotBytes())
              : SlotAllocator.FULL;
      if (slot != SlotAllocator.FULL && !adopt(identity, slot, run.random.nextInt(4) == 0)) {
        run.ssdSlots.free(slot);
      }
    }
  }

  /** Their last three digits are their places in the chain, from 1 on. */
  private static List<BlockIdentity> inOrder(Iterable<BlockIdentity> blocks) {
    List<BlockIdentity> result = new ArrayList<>();
    blocks.forEach(result::add);
    result.sort(Comparator.comparingLong(block -> block.hashLo() % 1000));
    return result;
  }

  private boolean adopt(BlockIdentity block, long slot, boolean full) {
    NaiveState.Space space =
        run.model.spaces.stream()
            .filter(s -> s.slotBytes == block.slotBytes() && s.parts == block.digestHi())
            .findFirst()
            .orElseThrow();
    Bytes bytes =
        new Bytes(
            new NaiveState.Key(space.handle, block.group(), block.hashLo()), block.generation());
    onSsd.put(slot, bytes);
    int before = run.model.evicted.size();
    Adoption expected =
        space.generation == block.generation()
            ? run.model.adopt(
                space,
                block.group(),
                block.hashLo(),
                block.hasParent() ? block.parentLo() : null,
                slot,
                full)
            : Adoption.REFUSED;
    assertThat(run.core.ssd().adopt(block, slot, full)).as("adopted %s", bytes).isEqualTo(expected);
    count(expected == Adoption.TAKEN, "adopted");
    count(run.model.evicted.size() > before, "adopted for another");
    return expected == Adoption.TAKEN;
  }

  /** The SSD takes no writes for a while, or takes them again. */
  private void stall() {
    run.step = "stall or go on";
    run.ssdSlots.stalled = !run.ssdSlots.stalled;
    run.model.stalled = run.ssdSlots.stalled;
    count(run.model.stalled, "stalled");
  }

  /** The core ends; another begins with what the SSD holds. */
  private void restart() {
    run.step = "restart";
    count(true, "restarted");
    Map<BlockIdentity, Long> survivors = new LinkedHashMap<>();
    for (Block block : run.model.blocks.values()) {
      if (block.ssd == Ssd.HELD) {
        survivors.put(known.get(bytes(block)), block.ssdRoom.slot);
      }
    }
    run.begin(run.model.spaces.stream().mapToInt(space -> space.generation).toArray());
    inHost.clear();
    for (BlockIdentity block : inOrder(survivors.keySet())) {
      long slot = survivors.get(block);
      run.ssdSlots.take((Long) slot, block.slotBytes());
      assertThat(adopt(block, slot, false)).as("%s is found again", block).isTrue();
    }
  }

  private void count(boolean happened, String what) {
    if (happened) {
      run.counts.merge(what, 1, Integer::sum);
    }
  }
}
