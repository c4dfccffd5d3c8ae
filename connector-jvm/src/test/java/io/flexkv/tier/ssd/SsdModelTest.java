package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Random work on a small store beside a map that says what must be in it, with restarts in between.
 * Extents are small and headers long, so that the header log is cleaned all the time.
 */
class SsdModelTest {
  /** Lives of a store; the long form asks for more by {@code -Dflexkv.ssd.lives=…}. */
  private static final int LIVES = Integer.getInteger("flexkv.ssd.lives", 4);

  private static final int STEPS = 100;

  @TempDir Path folder;

  @ParameterizedTest
  @ValueSource(longs = {1, 2})
  void randomWork_acrossRestarts_agreesWithAMap(long seed) throws IOException {
    Random random = new Random(seed);
    Path[] directories = {folder.resolve("a"), folder.resolve("b")};
    SsdOptions options = SsdRig.options(seed % 2 == 0 ? 0 : 8, 12 << 20, directories);
    SsdTuning tuning = SsdTuning.defaults().withExtentBytes(128 << 10);
    Map<Long, SlotHeader> byKey = new HashMap<>();
    long nextKey = 1;
    long headerBytes = 0;
    for (int life = 0; life < LIVES; life++) {
      try (SsdRig rig = SsdRig.open(options, tuning)) {
        Map<Long, Long> slotOf = new HashMap<>();
        rig.recovered.forEach((slot, header) -> slotOf.put(header.identity().keyLo(), slot));
        List<SlotHeader> missing = new ArrayList<>(byKey.values());
        missing.removeAll(new HashSet<>(rig.recovered.values()));
        assertThat(missing).as("seed %d, life %d", seed, life).isEmpty();
        // What was freed in the life before may be back: it is given up now.
        for (Map.Entry<Long, SlotHeader> back : rig.recovered.entrySet()) {
          long key = back.getValue().identity().keyLo();
          if (!byKey.containsKey(key)) {
            rig.engine.free(back.getKey());
            slotOf.remove(key);
          }
        }
        for (int step = 0; step < STEPS; step++) {
          if (random.nextInt(25) == 0) {
            resize(rig, random, slotOf, byKey);
          } else if (random.nextInt(3) < 2) {
            nextKey = write(rig, random, nextKey, slotOf, byKey);
          } else {
            readSome(rig, random, slotOf, byKey);
          }
        }
        readEverything(rig, slotOf, byKey);
        headerBytes += rig.engine.stats().headerBytes();
        assertThat(rig.engine.stats().corruptBlocks()).isZero();
      }
    }
    // More than all extents of the log at once could ever hold: so it was cleaned.
    assertThat(headerBytes).isGreaterThan(2 << 20);
  }

  private static long write(
      SsdRig rig,
      Random random,
      long nextKey,
      Map<Long, Long> slotOf,
      Map<Long, SlotHeader> byKey) {
    int blocks = 1 + random.nextInt(12);
    List<SlotHeader> headers = new ArrayList<>();
    long[] slots = new long[blocks];
    int[] sizes = {9_000, 40_000, 70_000, 300_000};
    for (int i = 0; i < blocks; i++) {
      long payload = sizes[random.nextInt(100) < 97 ? random.nextInt(2) : 2 + random.nextInt(2)];
      long slot;
      while ((slot = rig.engine.allocate(payload)) == SsdStore.FULL) {
        evict(rig, random, slotOf, byKey);
      }
      slots[i] = slot;
      headers.add(SsdRig.header(nextKey++, 0, 0, payload, random.nextInt(2500)));
    }
    SsdEvent.Ended end = rig.await(rig.submitWrite(slots, headers));
    if (end.outcome() != SsdEvent.Outcome.DONE) {
      // Nobody evicts while a job waits, and all that the full log has may count.
      assertThat(end.cause()).contains("header was not written: ENOSPC");
      Arrays.stream(slots).forEach(rig.engine::free);
      evict(rig, random, slotOf, byKey);
      return nextKey;
    }
    for (int i = 0; i < blocks; i++) {
      long key = headers.get(i).identity().keyLo();
      slotOf.put(key, slots[i]);
      byKey.put(key, headers.get(i));
    }
    return nextKey;
  }

  /** Another size, if the last one is over; what lies beyond the end goes, or some of it. */
  private static void resize(
      SsdRig rig, Random random, Map<Long, Long> slotOf, Map<Long, SlotHeader> byKey) {
    long bytes = (6L + random.nextInt(7)) << 20;
    try {
      rig.engine.prepareResize(bytes);
    } catch (IOException e) {
      assertThat(e).hasMessageContaining("in a moment");
      return;
    }
    rig.engine.resize(bytes);
    rig.engine.resizeOver();
    boolean all = random.nextBoolean();
    for (Map.Entry<Long, Long> block : Map.copyOf(slotOf).entrySet()) {
      if (rig.engine.leaves(block.getValue()) && (all || random.nextBoolean())) {
        rig.engine.free(block.getValue());
        slotOf.remove(block.getKey());
      }
    }
    byKey.keySet().retainAll(slotOf.keySet());
    assertThat(rig.engine.shrinks())
        .isEqualTo(slotOf.values().stream().anyMatch(rig.engine::leaves));
  }

  private static void evict(
      SsdRig rig, Random random, Map<Long, Long> slotOf, Map<Long, SlotHeader> byKey) {
    assertThat(slotOf).as("something to evict").isNotEmpty();
    List<Long> keys = new ArrayList<>(slotOf.keySet());
    for (int i = 0; i < Math.min(20, keys.size()); i++) {
      Long slot = slotOf.remove(keys.get(random.nextInt(keys.size())));
      if (slot != null) {
        rig.engine.free(slot);
      }
    }
    byKey.keySet().retainAll(slotOf.keySet());
    rig.engine.poll();
  }

  private static void readSome(
      SsdRig rig, Random random, Map<Long, Long> slotOf, Map<Long, SlotHeader> byKey) {
    List<Long> keys = new ArrayList<>(byKey.keySet());
    if (!keys.isEmpty()) {
      long key = keys.get(random.nextInt(keys.size()));
      assertThat(rig.read(slotOf.get(key), byKey.get(key).identity()).ready()).isOne();
    }
  }

  private static void readEverything(
      SsdRig rig, Map<Long, Long> slotOf, Map<Long, SlotHeader> byKey) {
    byKey.forEach(
        (key, header) -> assertThat(rig.read(slotOf.get(key), header.identity()).ready()).isOne());
  }
}
