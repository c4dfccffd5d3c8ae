package io.flexkv.tier;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

final class HostPoolTest {
  private static final long KIB = 1024;
  private static final long MIB = 1024 * KIB;

  private final Arena arena = Arena.ofShared();

  @AfterEach
  void unmap() {
    arena.close();
  }

  private HostPool pool(long capacity, long extent) throws IOException {
    return HostPool.create("flexkv-test", capacity, extent, arena);
  }

  @Test
  void allocate_untilFull_handsOutExactlyTheCapAndNoSlotTwice() throws IOException {
    HostPool pool = pool(10 * MIB, MIB);
    List<Long> addresses = new ArrayList<>();
    for (long slot; (slot = pool.allocate(256 * KIB)) != HostPool.FULL; ) {
      addresses.add(pool.address(slot));
    }
    assertThat(addresses).hasSize(40).doesNotHaveDuplicates();
    assertThat(pool.usedBytes()).isEqualTo(pool.capacityBytes()).isEqualTo(10 * MIB);
  }

  @Test
  void allocate_slotLongerThanAnExtent_takesNeighboursAndIsContiguous() throws IOException {
    HostPool pool = pool(10 * MIB, MIB);
    long slot = pool.allocate(3 * MIB - 100);
    MemorySegment memory = pool.segment(slot, 3 * MIB);
    memory.fill((byte) 7);
    assertThat(memory.get(ValueLayout.JAVA_BYTE, 3 * MIB - 1)).isEqualTo((byte) 7);
    assertThat(pool.usedBytes()).isEqualTo(3 * MIB);
    assertThat(pool.reservedBytes()).isEqualTo(3 * MIB);
  }

  @Test
  void allocate_slotOfSixTenthsOfAnExtent_wastesLittle() throws IOException {
    HostPool pool = pool(60 * MIB, MIB);
    int slots = 0;
    while (pool.allocate(600 * KIB) != HostPool.FULL) {
      slots++;
    }
    assertThat(slots).as("of 102 that the bytes would hold").isGreaterThanOrEqualTo(95);
  }

  @Test
  void allocate_capacityNoMultipleOfAnExtent_lastShortExtentIsUsedToo() throws IOException {
    HostPool pool = pool(2 * MIB + 300 * KIB, MIB);
    int slots = 0;
    while (pool.allocate(100 * KIB) != HostPool.FULL) {
      slots++;
    }
    assertThat(slots * 100L * KIB).isLessThanOrEqualTo(pool.capacityBytes());
    assertThat(slots).isEqualTo(23);
  }

  @Test
  void allocate_otherSizeHoldsAllExtents_fullUntilOneIsReturned() throws IOException {
    HostPool pool = pool(4 * MIB, MIB);
    List<Long> small = new ArrayList<>();
    for (long slot; (slot = pool.allocate(512 * KIB)) != HostPool.FULL; ) {
      small.add(slot);
    }
    pool.free(small.removeFirst());
    assertThat(pool.allocate(MIB)).isEqualTo(HostPool.FULL);
    pool.free(small.removeFirst());
    assertThat(pool.allocate(MIB)).isNotEqualTo(HostPool.FULL);
  }

  @Test
  void allocate_longerThanThePool_isFullNotAnError() throws IOException {
    assertThat(pool(MIB, 64 * KIB).allocate(2 * MIB)).isEqualTo(HostPool.FULL);
    assertThatThrownBy(() -> pool(MIB, 64 * KIB).allocate(0))
        .isInstanceOf(IllegalArgumentException.class);
  }

  @Test
  void allocate_severalSegments_noSlotCrossesTheirBorder() throws IOException {
    HostPool pool =
        HostPool.create("flexkv-test", 9 * MIB, MIB, 4 * MIB, PoolPages.OF_THE_SYSTEM, arena);
    assertThat(pool.segments()).hasSize(3);
    assertThat(pool.segments().getLast().byteSize()).isEqualTo(MIB);
    List<Long> slots = new ArrayList<>();
    for (long slot; (slot = pool.allocate(3 * MIB)) != HostPool.FULL; ) {
      slots.add(slot);
      pool.segment(slot, 3 * MIB).fill((byte) slots.size());
    }
    assertThat(slots).as("one in each segment that is long enough").hasSize(2);
    assertThat(pool.allocate(5 * MIB)).isEqualTo(HostPool.FULL);
  }

  @Test
  void free_twice_refusedAndCountsStay() throws IOException {
    HostPool pool = pool(4 * MIB, MIB);
    long kept = pool.allocate(64 * KIB);
    long slot = pool.allocate(64 * KIB);
    pool.free(slot);
    assertThatThrownBy(() -> pool.free(slot))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("not held");
    assertThat(pool.usedBytes()).isEqualTo(64 * KIB);
    pool.free(kept);
    assertThatThrownBy(() -> pool.free(kept)).isInstanceOf(IllegalArgumentException.class);
  }

  @Test
  void free_placeHandedOutAgain_oldHandleRefused() throws IOException {
    HostPool pool = pool(MIB, 64 * KIB);
    long keep = pool.allocate(32 * KIB);
    long old = pool.allocate(32 * KIB);
    pool.free(old);
    long again = pool.allocate(32 * KIB);
    assertThat(pool.address(again)).isEqualTo(pool.address(old));
    assertThatThrownBy(() -> pool.free(old))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("freed before");
    pool.free(again);
    pool.free(keep);
    assertThat(pool.usedBytes()).isZero();
  }

  @ParameterizedTest
  @ValueSource(longs = {-1, 0, 1, Long.MAX_VALUE, Long.MIN_VALUE, 1L << 40, (1L << 40) + 1})
  void free_inventedHandle_refused(long handle) throws IOException {
    HostPool pool = pool(4 * MIB, MIB);
    long slot = pool.allocate(2 * MIB);
    assertThatThrownBy(() -> pool.free(handle == slot ? handle + 2 : handle))
        .isInstanceOf(IllegalArgumentException.class);
    assertThat(pool.usedBytes()).isEqualTo(2 * MIB);
  }

  @Test
  void create_sizesThatCannotBe_refusedWithTheirNumbers() {
    assertThatThrownBy(() -> pool(4095, 4096))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("capacity=4095");
    assertThatThrownBy(() -> pool(MIB, 5000))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("extent=5000");
  }

  @Test
  void defaultExtentBytes_isSmallInASmallPool() {
    assertThat(HostPool.defaultExtentBytes(1L << 40)).isEqualTo(64 * MIB);
    assertThat(HostPool.defaultExtentBytes(1L << 30)).isEqualTo(16 * MIB);
    assertThat(HostPool.defaultExtentBytes(100 * KIB)).isEqualTo(64 * KIB);
  }

  @Test
  void prefault_besideUse_keepsContentsAndEnds() throws Exception {
    HostPool pool = pool(128 * MIB, MIB);
    long slot = pool.allocate(MIB);
    pool.segment(slot, MIB).fill((byte) 3);
    AtomicInteger told = new AtomicInteger();
    try (PoolPrefault prefault = PoolPrefault.start(pool, 2, told::incrementAndGet)) {
      long deadline = System.nanoTime() + 20_000_000_000L;
      while (!prefault.finished() && System.nanoTime() < deadline) {
        Thread.sleep(1);
      }
      assertThat(prefault.populatedBytes()).isEqualTo(128 * MIB);
    }
    assertThat(told).as("told once that the pool has its pages").hasValue(1);
    assertThat(pool.segment(slot, MIB).get(ValueLayout.JAVA_BYTE, MIB - 1)).isEqualTo((byte) 3);
  }

  @Test
  void create_reservedPagesThatAreNotThere_refusedWithTheRemedy() {
    long page = 1L << 30;
    assertThatThrownBy(() ->
            HostPool.create(
                "flexkv-test", 512 * page, MIB, 512 * page, PoolPages.reserved(page), arena))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("512 huge pages of 1073741824 bytes cannot be had")
        .hasMessageContaining("hugepages-1048576kB/nr_hugepages")
        .hasMessageContaining("unset use_hugepage_cpu_buffer");
  }

  @Test
  void reserved_pageThatIsNoPowerOfTwo_refused() {
    assertThatThrownBy(() -> PoolPages.reserved(3 * MIB))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("hugepage_size_bytes=3145728, wanted a power of two");
  }

  @Test
  void resize_larger_roomFollowsAndNothingMoves() throws IOException {
    HostPool pool = pool(2 * MIB + 300 * KIB, MIB);
    long held = pool.allocate(MIB);
    long address = pool.address(held);
    pool.segment(held, MIB).fill((byte) 4);
    assertThat(pool.resized(10 * MIB + 5)).isEqualTo(10 * MIB);
    assertThatThrownBy(() -> pool.resize(10 * MIB))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("of 2404352 that are mapped");
    pool.openMemory(10 * MIB);
    pool.resize(10 * MIB);
    int more = 0;
    for (long slot; (slot = pool.allocate(MIB)) != HostPool.FULL; more++) {
      pool.segment(slot, MIB).fill((byte) 1);
    }
    assertThat(more).as("the short extent is a whole one now").isEqualTo(9);
    assertThat(pool.address(held)).isEqualTo(address);
    assertThat(pool.segment(held, MIB).get(ValueLayout.JAVA_BYTE, 7)).isEqualTo((byte) 4);
    assertThat(pool.usedBytes()).isEqualTo(pool.capacityBytes()).isEqualTo(10 * MIB);
  }

  @Test
  void resize_largerThanASegment_takesAnother() throws IOException {
    HostPool pool =
        HostPool.create("flexkv-test", 3 * MIB, MIB, 4 * MIB, PoolPages.OF_THE_SYSTEM, arena);
    pool.openMemory(9 * MIB);
    pool.resize(9 * MIB);
    assertThat(pool.segments().stream().map(MemorySegment::byteSize))
        .containsExactly(4 * MIB, 4 * MIB, MIB);
    int taken = 0;
    for (long slot; (slot = pool.allocate(MIB)) != HostPool.FULL; taken++) {
      pool.segment(slot, MIB).fill((byte) 1);
    }
    assertThat(taken).isEqualTo(9);
  }

  @Test
  void resize_smaller_nothingIsGivenOutBeyondAndMemoryGoesWhenTheLastSlotDoes() throws IOException {
    HostPool pool = pool(8 * MIB, MIB);
    List<Long> slots = new ArrayList<>();
    for (long slot; (slot = pool.allocate(512 * KIB)) != HostPool.FULL; ) {
      slots.add(slot);
      pool.segment(slot, 512 * KIB).fill((byte) slots.size());
    }
    pool.resize(3 * MIB);
    List<Long> leaving = slots.stream().filter(pool::leaves).toList();
    assertThat(leaving).isEqualTo(slots.subList(6, 16));
    assertThat(pool.capacityBytes()).isEqualTo(3 * MIB);
    pool.free(leaving.getFirst());
    assertThat(pool.allocate(512 * KIB)).as("a free slot beyond the end").isEqualTo(HostPool.FULL);
    assertThat(pool.segment(slots.getLast(), 1).get(ValueLayout.JAVA_BYTE, 0))
        .as("what is held stays where it is")
        .isEqualTo((byte) 16);
    assertThatThrownBy(() -> pool.giveBack(new long[0])).isInstanceOf(IllegalStateException.class);
    leaving.stream().skip(1).forEach(pool::free);
    assertThat(pool.vacant()).isTrue();
    pool.giveBack(new long[0]);
    assertThat(pool.segments().getFirst().byteSize()).isEqualTo(3 * MIB);
    assertThatThrownBy(() -> pool.address(slots.getLast()))
        .isInstanceOf(IllegalArgumentException.class);
    pool.free(slots.getFirst());
    assertThat(pool.allocate(512 * KIB)).isNotEqualTo(HostPool.FULL);
  }

  @Test
  void resize_largerBeforeTheMemoryWent_spansGiveOutAgain() throws IOException {
    HostPool pool = pool(8 * MIB, MIB);
    List<Long> slots = new ArrayList<>();
    for (long slot; (slot = pool.allocate(512 * KIB)) != HostPool.FULL; ) {
      slots.add(slot);
    }
    pool.resize(2 * MIB);
    pool.free(slots.get(9)); // the second of the extent from 4 MiB on
    pool.openMemory(5 * MIB);
    pool.resize(5 * MIB);
    assertThat(slots.stream().filter(pool::leaves)).hasSize(6);
    assertThat(pool.address(slots.getLast())).as("still there").isPositive();
    long again = pool.allocate(512 * KIB);
    assertThat(again).isNotEqualTo(HostPool.FULL);
    assertThat(pool.address(again) - pool.address(slots.getFirst())).isEqualTo(9 * 512 * KIB);
    assertThat(pool.allocate(512 * KIB)).isEqualTo(HostPool.FULL);
  }

  @Test
  void giveBack_pinnedEnd_staysAsItIs() throws IOException {
    HostPool pool = pool(8 * MIB, MIB);
    MemorySegment whole = pool.segments().getFirst();
    whole.fill((byte) 6);
    pool.resize(3 * MIB);
    pool.giveBack(new long[] {4 * MIB});
    assertThat(whole.get(ValueLayout.JAVA_BYTE, 4 * MIB - 1)).isEqualTo((byte) 6);
    pool.openMemory(8 * MIB);
    assertThat(whole.get(ValueLayout.JAVA_BYTE, 4 * MIB)).as("was given back").isZero();
  }

  /** Against a naive model: a sorted map of what is held. */
  @ParameterizedTest
  @ValueSource(longs = {1, 2, 3, 4, 5})
  void randomUse_againstModel_neverOverlapsCapHoldsAllReturns(long seed) throws IOException {
    Random random = new Random(seed);
    long[] sizes = {4 * KIB, 12 * KIB, 40 * KIB, 250_000, 300 * KIB, MIB + 5, 5 * MIB};
    HostPool pool =
        HostPool.create(
            "flexkv-test", 37 * MIB + 8 * KIB, MIB, 16 * MIB, PoolPages.OF_THE_SYSTEM, arena);
    TreeMap<Long, Long> heldByAddress = new TreeMap<>();
    Map<Long, Long> slots = new TreeMap<>();
    long used = 0;
    int full = 0;
    for (int step = 0; step < 20_000; step++) {
      if (random.nextInt(500) == 0) {
        resize(pool, pool.resized((20 + random.nextInt(40)) * MIB));
      }
      boolean grow = random.nextInt(1000) < (step / 2000 % 2 == 0 ? 600 : 400);
      if (grow || slots.isEmpty()) {
        long size = sizes[random.nextInt(sizes.length)];
        long slot = pool.allocate(size);
        if (slot == HostPool.FULL) {
          full++;
          continue;
        }
        long length = (size + 4095) / 4096 * 4096;
        long address = pool.address(slot);
        String at = "seed %d step %d".formatted(seed, step);
        assertThat(address % 4096).as(at).isZero();
        Map.Entry<Long, Long> before = heldByAddress.floorEntry(address);
        Long after = heldByAddress.ceilingKey(address);
        assertThat(before == null || before.getKey() + before.getValue() <= address)
            .as("%s: overlaps the slot before", at)
            .isTrue();
        assertThat(after == null || address + length <= after)
            .as("%s: overlaps the slot after", at)
            .isTrue();
        assertThat(pool.segments())
            .as(at)
            .anyMatch(
                s -> address >= s.address() && address + length <= s.address() + s.byteSize());
        assertThat(slots.put(slot, length)).as("%s: handle in use", at).isNull();
        heldByAddress.put(address, length);
        used += length;
      } else {
        List<Long> all = new ArrayList<>(slots.keySet());
        long slot = all.get(random.nextInt(all.size()));
        heldByAddress.remove(pool.address(slot));
        used -= slots.remove(slot);
        pool.free(slot);
      }
      assertThat(pool.usedBytes()).isEqualTo(used);
      if (pool.vacant()) {
        assertThat(slots.keySet()).noneMatch(pool::leaves);
        assertThat(pool.reservedBytes()).isBetween(used, pool.capacityBytes());
      }
    }
    assertThat(full).as("seed %d met a full pool", seed).isPositive();
    List<Long> rest = new ArrayList<>(slots.keySet());
    Collections.shuffle(rest, random);
    rest.forEach(pool::free);
    assertThat(pool.vacant()).isTrue();
    resize(pool, 37 * MIB);
    assertThat(pool.usedBytes()).isZero();
    assertThat(pool.reservedBytes()).isZero();
    assertThat(pool.allocate(16 * MIB)).isNotEqualTo(HostPool.FULL);
  }

  /** As the sidecar does it; whether anything can be given back depends on what is held. */
  private static void resize(HostPool pool, long bytes) throws IOException {
    pool.openMemory(bytes);
    pool.resize(bytes);
    if (pool.vacant()) {
      pool.giveBack(new long[0]);
    }
  }
}
