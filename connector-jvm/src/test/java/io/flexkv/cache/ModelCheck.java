package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.NaiveState.Block;
import io.flexkv.cache.NaiveState.Host;
import io.flexkv.cache.NaiveState.Room;
import io.flexkv.cache.NaiveState.Ssd;
import io.flexkv.cache.NaiveState.Transfer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** Compares all that a core says and has with what its reference does. */
final class ModelCheck {
  private final ModelRun run;

  ModelCheck(ModelRun run) {
    this.run = run;
  }

  void all() {
    notices();
    transfers(run.model.startedReads, run.effects.reads, true);
    transfers(run.model.startedWrites, run.effects.writes, false);
    assertThat(run.effects.cancelled)
        .as("reads taken back")
        .containsExactlyInAnyOrderElementsOf(
            run.model.cancelled.stream().map(read -> read.started.id()).toList());
    run.counts.merge("read cancelled", run.effects.cancelled.size(), Integer::sum);
    figures();
    ssdFigures();
    TreeChecker.check(run.core);
    run.model.blocks.values().forEach(this::block);
    rooms(Tier.HOST);
    rooms(Tier.SSD);
  }

  private void figures() {
    NaiveCache model = run.model;
    CacheStats stats = run.core.stats();
    int ready = (int) model.blocks.values().stream().filter(b -> b.ready).count();
    long inHost =
        model.blocks.values().stream().filter(b -> b.ready && b.host == Host.THERE).count();
    assertThat(stats.readyBlocks()).as("servable").isEqualTo(ready);
    assertThat(stats.hostBlocks()).as("in the host tier").isEqualTo((int) inHost);
    assertThat(stats.pendingBlocks()).as("pending").isEqualTo(model.blocks.size() - ready);
    assertThat(stats.usedBytes()).as("used bytes").isEqualTo(model.usedBytes(Tier.HOST));
    assertThat(stats.leases()).as("leases").isEqualTo(model.leases.size());
    assertThat(stats.chains()).as("chains").isEqualTo(model.chainCount());
    assertThat(stats.chainBlocks()).as("chain blocks").isEqualTo(model.chainBlocks());
    assertThat(stats.loadJobs() + stats.saveJobs()).as("jobs").isEqualTo(model.jobs.size());
    assertThat(stats.parkedGos()).as("parked").isEqualTo(model.parkedCount());
    int quarantined = model.quarantine(Tier.HOST).size() + model.quarantine(Tier.SSD).size();
    assertThat(stats.quarantinedSlots()).as("quarantine").isEqualTo(quarantined);
    if (quarantined > 0) {
      run.counts.merge("quarantined", 1, Integer::sum);
    }
  }

  private void ssdFigures() {
    NaiveCache model = run.model;
    CacheStats.Ssd stats = run.core.stats().ssd();
    long held = model.blocks.values().stream().filter(b -> b.ssd == Ssd.HELD).count();
    assertThat(stats.blocks()).as("on the SSD").isEqualTo((int) held);
    assertThat(stats.usedBytes()).as("used of the SSD").isEqualTo(model.usedBytes(Tier.SSD));
    assertThat(stats.queuedBytes()).as("queued").isEqualTo(model.queuedBytes());
    assertThat(stats.reads()).as("reads").isEqualTo(model.reads.size());
    assertThat(stats.writes()).as("writes").isEqualTo(model.writes.size());
    assertThat(stats.undrained()).as("undrained").isEqualTo(model.undrained.size());
  }

  private void block(Block block) {
    BlockIndex index = run.core.index();
    long hash = block.key.hash();
    int entry = TreeChecker.find(run.core, block.key.namespace(), block.key.group(), ~hash, hash);
    assertThat(entry).as("entry of %s", block.key).isNotEqualTo(BlockIndex.NONE);
    block.entry = entry;
    int state = block.ready ? EntryLayout.READY : EntryLayout.PENDING;
    assertThat(index.getInt(entry, EntryLayout.STATE))
        .as("state of %s", block.key)
        .isEqualTo(!block.ready && block.whole ? EntryLayout.COMPLETE : state);
    assertThat(index.getInt(entry, EntryLayout.PINS))
        .as("pins of %s", block.key)
        .isEqualTo(run.model.pins(block));
    assertThat(index.getInt(entry, EntryLayout.CHILDREN) > 0)
        .as("children of %s", block.key)
        .isEqualTo(run.model.hasChildren(block));
    assertThat(index.getInt(entry, EntryLayout.HOST))
        .as("host copy of %s", block.key)
        .isEqualTo(block.host.code);
    assertThat(index.getInt(entry, EntryLayout.SSD))
        .as("SSD copy of %s", block.key)
        .isEqualTo(block.ssd.code);
    assertThat(index.getInt(entry, EntryLayout.HOT) != 0)
        .as("%s is hot", block.key)
        .isEqualTo(block.hot());
    if (block.host != Host.NONE) {
      slot(block.hostRoom, index.getLong(entry, EntryLayout.SLOT));
    }
    if (block.onSsd()) {
      slot(block.ssdRoom, index.getLong(entry, EntryLayout.SSD_SLOT));
    }
    run.disk.checkBytes(block);
  }

  /** A block keeps its slot for as long as it has it. */
  private static void slot(Room room, long is) {
    if (room.slot < 0) {
      room.slot = is;
    }
    assertThat(is).as("slot").isEqualTo(room.slot);
  }

  /** No two blocks have the same slot, and none has one that a copy of another may touch. */
  private void rooms(Tier tier) {
    Set<Long> distinct = new HashSet<>();
    for (Block block : run.model.blocks.values()) {
      if (tier == Tier.HOST ? block.host != Host.NONE : block.onSsd()) {
        Room room = tier == Tier.HOST ? block.hostRoom : block.ssdRoom;
        assertThat(distinct.add(room.slot)).as("slot %s has one block", room.slot).isTrue();
      }
    }
    for (Room room : run.model.quarantine(tier)) {
      assertThat(distinct).as("slot in quarantine").doesNotContain(room.slot);
    }
  }

  private void notices() {
    RecordedEffects effects = run.effects;
    List<String> is = new ArrayList<>();
    for (RecordedEffects.Start start : effects.starts) {
      is.add(
          "start %s %d %d %s"
              .formatted(
                  start.save ? "save" : "load",
                  start.jobId,
                  start.part,
                  Arrays.toString(start.gpuBlocks)));
      startedIn(start);
    }
    effects.done.forEach(
        done -> is.add("done %d %d %s".formatted(done.jobId(), done.part(), done.status())));
    effects.saves.forEach(save ->
        is.add(
            "saved %d %d %d %d"
                .formatted(save.jobId(), save.committed(), save.skipped(), save.dropped())));
    effects.cleared.forEach(
        generation -> is.add("cleared " + run.step.substring(6) + " " + generation));
    assertThat(is).containsExactlyInAnyOrderElementsOf(run.model.expected);
    List<String> evicted =
        effects.evicted.stream()
            .map(e -> "%s %d %d %d".formatted(e.tier(), e.namespace(), e.group(), e.hash()))
            .toList();
    if (run.step.startsWith("lost")) { // in which order is the core's: by where its entries lie
      assertThat(evicted).as("lost").containsExactlyInAnyOrderElementsOf(run.model.evicted);
    } else {
      assertThat(evicted).as("evictions in order").containsExactlyElementsOf(run.model.evicted);
    }
    assertThat(
            effects.stored.stream()
                .map(s ->
                    "%s %d %d %d under %s %d"
                        .formatted(
                            s.tier(),
                            s.namespace(),
                            s.group(),
                            s.hash(),
                            s.hasParent(),
                            s.parentHash())))
        .as("what became servable, in order")
        .containsExactlyElementsOf(run.model.stored);
    count("part ok", is, "done .* OK");
    count("part failed", is, "done .* FAILED");
    count("evicted", run.model.evicted, "HOST .*");
    count("evicted from SSD", run.model.evicted, "SSD .*");
  }

  private void count(String what, List<String> notices, String pattern) {
    int n = (int) notices.stream().filter(notice -> notice.matches(pattern)).count();
    if (n > 0) {
      run.counts.merge(what, n, Integer::sum);
    }
  }

  private void startedIn(RecordedEffects.Start start) {
    NaiveState.Work work = run.model.jobs.get(start.jobId);
    List<Integer> sent = work.sent.get(start.part);
    assertThat(start.slots).hasSameSizeAs(sent);
    for (int i = 0; i < start.slots.length; i++) {
      slot(work.rooms.get(sent.get(i)), start.slots[i]);
    }
  }

  /** The reads or writes that began, in their order, and what they are of. */
  private void transfers(List<Transfer> expected, List<SsdTransfer> started, boolean reads) {
    assertThat(started).as(reads ? "reads" : "writes").hasSameSizeAs(expected);
    for (int i = 0; i < started.size(); i++) {
      SsdTransfer is = started.get(i);
      Transfer transfer = expected.get(i);
      transfer.started = is;
      assertThat(is.blocks())
          .extracting(BlockIdentity::hashLo)
          .containsExactlyElementsOf(
              transfer.blocks.stream().map(block -> block.key.hash()).toList());
      for (int block = 0; block < is.blocks().size(); block++) {
        slot(transfer.hostRooms.get(block), is.hostSlots()[block]);
        slot(transfer.ssdRooms.get(block), is.ssdSlots()[block]);
        run.disk.known(transfer.blocks.get(block), is.blocks().get(block));
      }
    }
  }
}
