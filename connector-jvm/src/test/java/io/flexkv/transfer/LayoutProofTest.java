package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.device.CopyStream;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.device.FenceRing;
import io.flexkv.device.ProcessEngine;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import io.flexkv.protocol.ProofPattern;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.Test;

final class LayoutProofTest {
  private static final int[] BLOCKS = {0, 1, 8, 15};

  /** Two layers of 16 blocks of 1,000 bytes, as the engine means it. */
  private static final List<Region> TRUTH =
      List.of(new Region(0, 0, 1000, 1000, 16), new Region(0, 16_000, 1000, 1000, 16));

  private static void fillAsEngine(ProcessEngine engine, long seed) {
    for (int region = 0; region < 2; region++) {
      for (int block : BLOCKS) {
        byte[] share = ProofPattern.bytes(seed, region, block, 1000);
        engine.poke(0, TRUTH.get(region).offset() + block * 1000L, share);
      }
    }
  }

  @Test
  void readAndWrite_rightLayout_provesEqual() throws Exception {
    try (ProcessEngine engine = new ProcessEngine(32_000);
        Arena arena = Arena.ofShared()) {
      fillAsEngine(engine, 77);
      RankLayout layout = RankLayout.of(engine.allocations(), TRUTH, "test");
      try (DeviceMemory memory = engine.open(layout)) {
        LayoutProof proof = new LayoutProof(memory, arena.allocate(2000, 8), 5_000_000_000L);
        assertThat(proof.read(77, BLOCKS)).isEmpty();
        assertThat(proof.read(78, BLOCKS)).contains("block 0, region 0, byte 0");
        proof.write(1234, BLOCKS);
      }
      byte[] share = ProofPattern.bytes(1234, 1, 15, 1000);
      assertThat(engine.peek(0, 31_000, 1000)).isEqualTo(share);
    }
  }

  @Test
  void read_layersSwapped_isFound() throws Exception {
    try (ProcessEngine engine = new ProcessEngine(32_000);
        Arena arena = Arena.ofShared()) {
      fillAsEngine(engine, 5);
      RankLayout layout = RankLayout.of(engine.allocations(), TRUTH.reversed(), "test");
      try (DeviceMemory memory = engine.open(layout)) {
        LayoutProof proof = new LayoutProof(memory, arena.allocate(2000, 8), 5_000_000_000L);
        assertThat(proof.read(5, BLOCKS)).contains("region 0, byte 0");
      }
    }
  }

  @Test
  void read_wrongStride_isFoundInALaterBlock() throws Exception {
    try (ProcessEngine engine = new ProcessEngine(32_000);
        Arena arena = Arena.ofShared()) {
      fillAsEngine(engine, 6);
      List<Region> wrong =
          List.of(new Region(0, 0, 1008, 1000, 15), new Region(0, 16_000, 1008, 1000, 15));
      RankLayout layout = RankLayout.of(engine.allocations(), wrong, "test");
      try (DeviceMemory memory = engine.open(layout)) {
        LayoutProof proof = new LayoutProof(memory, arena.allocate(2000, 8), 5_000_000_000L);
        assertThat(proof.read(6, new int[] {0, 1})).contains("block 1, region 0");
      }
    }
  }

  @Test
  void read_streamCannotBeOpened_leavesNothingOpen() throws Exception {
    try (FakeEngine engine = new FakeEngine(32_000);
        Arena arena = Arena.ofShared()) {
      FakeDevice device = engine.open(RankLayout.of(engine.allocations(), TRUTH, "test"));
      Broken broken = new Broken(device);
      LayoutProof proof = new LayoutProof(broken, arena.allocate(2000, 8), 200_000_000L);
      assertThatThrownBy(() -> proof.read(1, BLOCKS)).isInstanceOf(IllegalStateException.class);
      assertThat(broken.closed).isTrue();
      assertThat(device.openStreams).hasValue(0);
    }
  }

  /** A device of which the second stream fails in a way that nobody expects. */
  private static final class Broken implements DeviceMemory {
    private final FakeDevice device;
    private boolean closed;

    Broken(FakeDevice device) {
      this.device = device;
    }

    @Override
    public RankLayout layout() {
      return device.layout();
    }

    @Override
    public long regionAddress(int region) {
      return device.regionAddress(region);
    }

    @Override
    public CopyStream openStream(Direction direction) throws DeviceException {
      if (direction == Direction.SAVE) {
        throw new IllegalStateException("test");
      }
      return device.openStream(direction);
    }

    @Override
    public FenceRing openFences(List<byte[]> handles, FenceRing.Seen onSeen) {
      throw new UnsupportedOperationException();
    }

    @Override
    public DeviceMemory withHost(MemorySegment host) {
      return this;
    }

    @Override
    public void close() {
      closed = true;
    }
  }

  @Test
  void read_deviceNeverAnswers_endsWithinItsBound() throws Exception {
    try (FakeEngine engine = new FakeEngine(32_000);
        Arena arena = Arena.ofShared()) {
      var device = engine.open(RankLayout.of(engine.allocations(), TRUTH, "test"));
      device.held = true;
      LayoutProof proof = proof(device, arena, System.nanoTime() + 200_000_000L, () -> false);
      assertThatThrownBy(() -> proof.read(1, BLOCKS))
          .isInstanceOf(DeviceException.class)
          .hasMessageContaining("block 0 did not end in time");
      assertThat(proof.drained()).isFalse();
      device.held = false;
      assertThat(proof.awaitDrained()).isTrue();
      assertThat(device.openStreams).hasValue(0);
    }
  }

  @Test
  void write_takenBackWhileItsCopyRuns_endsLongBeforeItsDeadlineAndCopiesNoMore() throws Exception {
    try (FakeEngine engine = new FakeEngine(32_000);
        Arena arena = Arena.ofShared()) {
      var device = engine.open(RankLayout.of(engine.allocations(), TRUTH, "test"));
      device.held = true;
      long deadline = System.nanoTime() + 300_000_000_000L;
      LayoutProof proof = proof(device, arena, deadline, () -> device.submitted.get() > 0);
      assertThatThrownBy(() -> proof.write(1, BLOCKS)).hasMessageContaining("was taken back");
      assertThat(System.nanoTime()).as("waited on").isLessThan(deadline - 200_000_000_000L);
      assertThat(device.submitted).hasValue(1);
      assertThat(proof.drained()).isFalse();
      device.held = false;
      assertThat(proof.awaitDrained()).isTrue();
      assertThat(device.openStreams).hasValue(0);
    }
  }

  @Test
  void write_deadlineComesBetweenTwoBlocks_writesNoMore() throws Exception {
    try (FakeEngine engine = new FakeEngine(32_000);
        Arena arena = Arena.ofShared()) {
      var device = engine.open(RankLayout.of(engine.allocations(), TRUTH, "test"));
      long deadline = System.nanoTime() + 500_000_000L;
      device.beforeCopy = () -> awaitTime(deadline); // the first block ends when time is up
      LayoutProof proof = proof(device, arena, deadline, () -> false);
      assertThatThrownBy(() -> proof.write(1, BLOCKS)).isInstanceOf(DeviceException.class);
      assertThat(proof.drained()).isTrue();
      assertThat(engine.peek(0, 0, 1000)).isEqualTo(ProofPattern.bytes(1, 0, 0, 1000));
      assertThat(engine.peek(0, 1000, 1000)).isEqualTo(new byte[1000]);
    }
  }

  private static LayoutProof proof(
      FakeDevice device, Arena arena, long deadline, BooleanSupplier over) {
    return new LayoutProof(device, arena.allocate(2000, 8), deadline, 100_000_000L, over);
  }

  private static void awaitTime(long nanos) {
    while (System.nanoTime() - nanos < 0) {
      Thread.onSpinWait();
    }
  }
}
