package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What every backend must do; one subclass a backend. */
@Timeout(60)
abstract class DeviceMemoryContract {
  private static final int MEGABYTE = 1 << 20;

  final Arena arena = Arena.ofShared();

  /** An engine with allocations of these sizes, zero-filled. */
  abstract EngineMemory engine(long... allocationBytes) throws Exception;

  int copiesOfASlice(CopyStream stream) {
    return stream.limits().copies();
  }

  @AfterEach
  void freeHostMemory() {
    arena.close();
  }

  private static byte[] random(int length, long seed) {
    byte[] bytes = new byte[length];
    new Random(seed).nextBytes(bytes);
    return bytes;
  }

  private static void copy(CopyStream stream, CopySlice slice) throws DeviceException {
    long wanted = stream.completed() + 1;
    stream.submit(slice);
    long deadline = System.nanoTime() + 10_000_000_000L;
    while (stream.completed() < wanted) {
      assertThat(System.nanoTime()).as("a slice ends within 10 s").isLessThan(deadline);
      Thread.onSpinWait();
    }
  }

  private static RankLayout one(EngineMemory engine, Region... regions) throws Exception {
    return RankLayout.of(engine.allocations(), List.of(regions), "test");
  }

  @Test
  void save_scatteredBlocks_bytesArriveAtTheirPlace() throws Exception {
    try (EngineMemory engine = engine(MEGABYTE, MEGABYTE)) {
      byte[] first = random(MEGABYTE, 1);
      byte[] second = random(MEGABYTE, 2);
      engine.poke(0, 0, first);
      engine.poke(1, 0, second);
      RankLayout layout =
          one(engine, new Region(0, 4096, 8192, 5000, 100), new Region(1, 100, 3000, 3000, 100));
      MemorySegment host = arena.allocate(64 << 10, 8);
      try (DeviceMemory device = engine.open(layout);
          CopyStream stream = device.openStream(Direction.SAVE)) {
        CopySlice slice = new CopySlice(16);
        slice.add(device.regionAddress(0) + 99L * 8192, host.address() + 7, 5000);
        slice.add(device.regionAddress(1) + 3 * 3000, host.address() + 20_000, 3000);
        slice.add(device.regionAddress(0), host.address() + 40_000, 5000);
        copy(stream, slice);
      }
      assertThat(bytes(host, 7, 5000)).isEqualTo(part(first, 4096 + 99 * 8192, 5000));
      assertThat(bytes(host, 20_000, 3000)).isEqualTo(part(second, 100 + 9000, 3000));
      assertThat(bytes(host, 40_000, 5000)).isEqualTo(part(first, 4096, 5000));
      assertThat(bytes(host, 5007, 20_000 - 5007)).as("nothing beside them").containsOnly(0);
    }
  }

  @Test
  void load_scatteredBlocks_bytesArriveAtTheirPlaceAndNowhereElse() throws Exception {
    try (EngineMemory engine = engine(MEGABYTE)) {
      byte[] before = random(MEGABYTE, 3);
      engine.poke(0, 0, before);
      RankLayout layout = one(engine, new Region(0, 64, 4096, 4000, 200));
      byte[] content = random(8000, 4);
      MemorySegment host = arena.allocate(8000, 8).copyFrom(MemorySegment.ofArray(content));
      try (DeviceMemory device = engine.open(layout);
          CopyStream stream = device.openStream(Direction.LOAD)) {
        CopySlice slice = new CopySlice(16);
        slice.add(device.regionAddress(0) + 150L * 4096, host.address(), 4000);
        slice.add(device.regionAddress(0) + 7L * 4096, host.address() + 4000, 4000);
        copy(stream, slice);
      }
      byte[] wanted = before.clone();
      System.arraycopy(content, 0, wanted, 64 + 150 * 4096, 4000);
      System.arraycopy(content, 4000, wanted, 64 + 7 * 4096, 4000);
      assertThat(Arrays.mismatch(engine.peek(0, 0, MEGABYTE), wanted)).isEqualTo(-1);
    }
  }

  @Test
  void copies_manySlicesBothWays_comeBackEqual() throws Exception {
    int blocks = 3000;
    try (EngineMemory engine = engine(blocks * 256L)) {
      byte[] content = random(blocks * 256, 5);
      engine.poke(0, 0, content);
      RankLayout layout = one(engine, new Region(0, 0, 256, 256, blocks));
      MemorySegment host = arena.allocate(blocks * 256L, 8);
      try (DeviceMemory device = engine.open(layout);
          CopyStream save = device.openStream(Direction.SAVE);
          CopyStream load = device.openStream(Direction.LOAD)) {
        CopySlice slice = new CopySlice(copiesOfASlice(save));
        // Reversed on the host, so that nothing merges.
        transferReversed(device, save, slice, host, blocks);
        engine.poke(0, 0, new byte[blocks * 256]);
        transferReversed(device, load, slice, host, blocks);
      }
      assertThat(Arrays.mismatch(engine.peek(0, 0, blocks * 256), content)).isEqualTo(-1);
      assertThat(bytes(host, 0, 256)).isEqualTo(part(content, (blocks - 1) * 256, 256));
    }
  }

  private static void transferReversed(
      DeviceMemory device, CopyStream stream, CopySlice slice, MemorySegment host, int blocks)
      throws DeviceException {
    slice.clear();
    for (int b = 0; b < blocks; b++) {
      long at = host.address() + (blocks - 1L - b) * 256;
      if (!slice.add(device.regionAddress(0) + b * 256L, at, 256)) {
        copy(stream, slice);
        slice.clear();
        b--;
      }
    }
    copy(stream, slice);
  }

  @Test
  void copies_neighboursMergedUpAndDown_bytesEqual() throws Exception {
    try (EngineMemory engine = engine(64 << 10)) {
      byte[] content = random(64 << 10, 6);
      engine.poke(0, 0, content);
      RankLayout layout = one(engine, new Region(0, 0, 1024, 1024, 64));
      MemorySegment host = arena.allocate(64 << 10, 8);
      try (DeviceMemory device = engine.open(layout);
          CopyStream stream = device.openStream(Direction.SAVE)) {
        CopySlice slice = new CopySlice(4);
        for (int b = 0; b < 32; b++) {
          assertThat(
                  slice.add(device.regionAddress(0) + b * 1024L, host.address() + b * 1024L, 1024))
              .isTrue();
        }
        for (int b = 63; b >= 32; b--) {
          assertThat(
                  slice.add(device.regionAddress(0) + b * 1024L, host.address() + b * 1024L, 1024))
              .isTrue();
        }
        assertThat(slice.count()).isEqualTo(2);
        copy(stream, slice);
      }
      assertThat(Arrays.mismatch(bytes(host, 0, 64 << 10), content)).isEqualTo(-1);
    }
  }

  /** Rows of random width, number and pitch on both sides, mixed with plain copies. */
  @Test
  void copies_stridedAtRandom_everyRowArrivesAndNothingElse() throws Exception {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    try (EngineMemory engine = engine(MEGABYTE)) {
      byte[] content = random(MEGABYTE, seed);
      engine.poke(0, 0, content);
      RankLayout layout = one(engine, new Region(0, 0, 4096, 4096, 256));
      MemorySegment host = arena.allocate(MEGABYTE, 4096);
      byte[] wantedHost = new byte[MEGABYTE];
      byte[] wantedDevice = content.clone();
      try (DeviceMemory device = engine.open(layout);
          CopyStream save = device.openStream(Direction.SAVE);
          CopyStream load = device.openStream(Direction.LOAD)) {
        CopySlice slice = new CopySlice(16);
        List<int[]> all = drawRows(random);
        for (int[] rows : all) {
          add(slice, device, host, rows);
          move(rows, content, 0, wantedHost, 1);
        }
        copy(save, slice);
        assertThat(Arrays.mismatch(bytes(host, 0, MEGABYTE), wantedHost))
            .as("host after a save, seed " + seed)
            .isEqualTo(-1);
        byte[] other = random(MEGABYTE, ~seed);
        host.copyFrom(MemorySegment.ofArray(other));
        for (int[] rows : all) {
          move(rows, other, 1, wantedDevice, 0);
        }
        copy(load, slice);
      }
      assertThat(Arrays.mismatch(engine.peek(0, 0, MEGABYTE), wantedDevice))
          .as("device after a load, seed " + seed)
          .isEqualTo(-1);
    }
  }

  /**
   * Copies that share no byte: each has 64 KiB of its own on either side. {device address, host
   * address, width, rows, device pitch, host pitch}
   */
  private static List<int[]> drawRows(Random random) {
    List<int[]> all = new ArrayList<>();
    for (int i = 0; i < 16; i++) {
      int rows = 1 + random.nextInt(20);
      int width = 1 + random.nextInt((60 << 10) / rows);
      int slack = (63 << 10) / rows - width;
      all.add(
          new int[] {
            (i << 16) + random.nextInt(64),
            ((15 - i) << 16) + random.nextInt(64),
            width,
            rows,
            width + random.nextInt(slack),
            random.nextBoolean() ? width : width + random.nextInt(slack)
          });
    }
    return all;
  }

  private static void add(CopySlice slice, DeviceMemory device, MemorySegment host, int[] r) {
    assertThat(
            slice.addRows(
                device.regionAddress(0) + r[0], host.address() + r[1], r[2], r[3], r[4], r[5]))
        .isTrue();
  }

  /** Side 0 is the device, 1 the host. */
  private static void move(int[] r, byte[] from, int fromSide, byte[] to, int toSide) {
    for (int row = 0; row < r[3]; row++) {
      System.arraycopy(
          from, r[fromSide] + row * r[4 + fromSide], to, r[toSide] + row * r[4 + toSide], r[2]);
    }
  }

  @Test
  void submit_ownerHasEnded_failsAsGoneNotHangs() throws Exception {
    try (EngineMemory engine = engine(64 << 10)) {
      RankLayout layout = one(engine, new Region(0, 0, 1024, 1024, 64));
      MemorySegment host = arena.allocate(1024, 8);
      try (DeviceMemory device = engine.open(layout);
          CopyStream stream = device.openStream(Direction.LOAD)) {
        engine.kill();
        CopySlice slice = new CopySlice(4);
        slice.add(device.regionAddress(0), host.address(), 1024);
        assertThatThrownBy(() -> copy(stream, slice))
            .isInstanceOfSatisfying(
                DeviceException.class,
                e -> assertThat(e.kind()).isEqualTo(DeviceException.Kind.GONE));
      }
    }
  }

  @Test
  void layout_regionBeyondItsAllocation_refusedBeforeAnythingIsOpened() throws Exception {
    try (EngineMemory engine = engine(64 << 10)) {
      assertThatThrownBy(() -> one(engine, new Region(0, 1, 1024, 1024, 64)))
          .isInstanceOf(DeviceException.class)
          .hasMessageContaining("end beyond allocation 0 of 65536 bytes");
    }
  }

  @Test
  void openStream_twoStreams_workSideBySide() throws Exception {
    try (EngineMemory engine = engine(64 << 10)) {
      byte[] content = random(1024, 7);
      RankLayout layout = one(engine, new Region(0, 0, 1024, 1024, 64));
      MemorySegment host = arena.allocate(2048, 8);
      MemorySegment.copy(content, 0, host, ValueLayout.JAVA_BYTE, 0, 1024);
      try (DeviceMemory device = engine.open(layout);
          CopyStream load = device.openStream(Direction.LOAD);
          CopyStream save = device.openStream(Direction.SAVE)) {
        CopySlice slice = new CopySlice(1);
        slice.add(device.regionAddress(0) + 5 * 1024, host.address(), 1024);
        copy(load, slice);
        slice.clear();
        slice.add(device.regionAddress(0) + 5 * 1024, host.address() + 1024, 1024);
        copy(save, slice);
      }
      assertThat(bytes(host, 1024, 1024)).isEqualTo(content);
    }
  }

  static byte[] bytes(MemorySegment memory, long offset, long length) {
    return memory.asSlice(offset, length).toArray(ValueLayout.JAVA_BYTE);
  }

  static byte[] part(byte[] bytes, int offset, int length) {
    return Arrays.copyOfRange(bytes, offset, offset + length);
  }
}
