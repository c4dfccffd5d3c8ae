package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;

/**
 * The simulated movers: copies go block by block in any interleaving with everything else; the
 * reports of those that have ended wait in a bag, and come late, in any order, twice, or not at all
 * until somebody gives the copy up.
 */
final class SimMover {
  /** A rank's part of a job, being copied. */
  static final class Copy {
    final long job;
    final int part;
    final boolean save;
    final SimGpu gpu;
    final int rank;
    final int slotPart;
    final int[] blocks;
    final long[] slots;
    final long[] generations;
    final AvailableBlocks available;
    int next;
    boolean failed;
    boolean told;
    boolean[] blockOk = new boolean[0];

    Copy(
        long job,
        boolean save,
        SimGpu gpu,
        int rank,
        int slotPart,
        int[] blocks,
        long[] slots,
        long[] generations,
        AvailableBlocks available) {
      this.job = job;
      this.part = rank;
      this.save = save;
      this.gpu = gpu;
      this.rank = rank;
      this.slotPart = slotPart;
      this.blocks = blocks;
      this.slots = slots;
      this.generations = generations;
      this.available = available;
    }

    boolean touches(long slot) {
      return !told
          && Arrays.stream(slots, 0, Math.min(slots.length, available.count()))
              .anyMatch(s -> s == slot);
    }
  }

  final List<Copy> running = new ArrayList<>();
  final List<Copy> reports = new ArrayList<>();
  final List<Copy> lost = new ArrayList<>();
  long blocksCopied;
  long duplicates;

  /** Whether a slot is that of a copy whose end the core cannot know yet. */
  boolean touches(long slot) {
    return Stream.of(running, reports, lost)
        .flatMap(List::stream)
        .anyMatch(copy -> copy.touches(slot));
  }

  /** Copies one more block of some copy; ends it after the last, or earlier as failed. */
  void advance(Random random, SimSlots slots) {
    if (running.isEmpty()) {
      return;
    }
    Copy copy = running.get(random.nextInt(running.size()));
    if (copy.failed && random.nextInt(3) == 0) {
      end(copy);
      return;
    }
    if (copy.next >= copy.available.count()) {
      if (copy.available.isCut()) {
        copy.failed = true;
        end(copy);
      }
      return;
    }
    int block = copy.blocks[copy.next];
    if (copy.save) {
      slots.write(copy.slots[copy.next], copy.slotPart, copy.gpu.tags[copy.rank][block]);
    } else {
      copy.gpu.tags[copy.rank][block] = slots.read(copy.slots[copy.next], copy.slotPart);
    }
    blocksCopied++;
    copy.next++;
    if (copy.next == copy.blocks.length) {
      end(copy);
    } else if (random.nextInt(80) == 0) {
      copy.failed = true;
    }
  }

  private void end(Copy copy) {
    running.remove(copy);
    copy.blockOk = new boolean[copy.blocks.length];
    for (int i = 0; copy.save && !copy.failed && i < copy.blocks.length; i++) {
      copy.blockOk[i] = copy.gpu.generations[copy.blocks[i]] == copy.generations[i];
    }
    reports.add(copy);
  }

  /** Reports one of the copies that have ended. */
  void report(Random random, CacheCore core) {
    if (!lost.isEmpty() && random.nextInt(6) == 0) {
      Copy copy = lost.remove(random.nextInt(lost.size()));
      copy.failed = true;
      tell(copy, core);
    }
    if (reports.isEmpty()) {
      return;
    }
    Copy copy = reports.remove(random.nextInt(reports.size()));
    if (random.nextInt(40) == 0) {
      lost.add(copy);
      return;
    }
    tell(copy, core);
    if (random.nextInt(10) == 0) {
      duplicates++;
      reports.add(copy);
    }
  }

  private static void tell(Copy copy, CacheCore core) {
    copy.told = true;
    if (copy.save) {
      core.savePartDone(copy.job, copy.part, copy.failed ? new boolean[0] : copy.blockOk);
    } else {
      core.loadPartDone(copy.job, copy.part, !copy.failed);
    }
  }
}
