package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.ffm.PidFd;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.junit.jupiter.api.Test;

final class ProcessMemoryDeviceTest extends DeviceMemoryContract {
  @Override
  ProcessEngine engine(long... allocationBytes) throws Exception {
    return new ProcessEngine(allocationBytes);
  }

  /** More than one system call takes. */
  @Override
  int copiesOfASlice(CopyStream stream) {
    return 1500;
  }

  private static AllocationHandle.ProcessMemory memory(ProcessEngine engine) {
    return (AllocationHandle.ProcessMemory) engine.allocations().getFirst();
  }

  private static RankLayout layout(AllocationHandle handle) throws DeviceException {
    return RankLayout.of(List.of(handle), List.of(new Region(0, 0, 1024, 1024, 64)), "test");
  }

  @Test
  void open_pidOfAnotherLife_refusedAsGone() throws Exception {
    try (ProcessEngine engine = engine(64 << 10)) {
      AllocationHandle.ProcessMemory real = memory(engine);
      RankLayout recycled =
          layout(
              new AllocationHandle.ProcessMemory(
                  real.pid(), real.startTimeTicks() - 1, real.address(), real.length()));
      assertThatThrownBy(() -> ProcessMemoryDevice.open(recycled))
          .isInstanceOf(DeviceException.class)
          .hasMessageContaining("recycled")
          .extracting(e -> ((DeviceException) e).kind())
          .isEqualTo(DeviceException.Kind.GONE);
    }
  }

  @Test
  void open_processThatHasEnded_refusedAsGone() throws Exception {
    try (ProcessEngine engine = engine(64 << 10)) {
      RankLayout layout = layout(memory(engine));
      engine.kill();
      assertThatThrownBy(() -> ProcessMemoryDevice.open(layout))
          .isInstanceOf(DeviceException.class)
          .extracting(e -> ((DeviceException) e).kind())
          .isEqualTo(DeviceException.Kind.GONE);
    }
  }

  @Test
  void open_otherKindsOfHandles_refusedByName() throws Exception {
    RankLayout layout = layout(new AllocationHandle.MemFd(3, 0, 64 << 10));
    assertThatThrownBy(() -> ProcessMemoryDevice.open(layout))
        .isInstanceOf(DeviceException.class)
        .hasMessageContaining("memfd");
  }

  @Test
  void submit_addressThatIsNotMapped_failsAsCopyWithTheAddress_laterSlicesWork() throws Exception {
    try (ProcessEngine engine = engine(64 << 10)) {
      AllocationHandle.ProcessMemory real = memory(engine);
      MemorySegment host = arena.allocate(2048, 8);
      engine.poke(0, 1024, new byte[] {42});
      try (DeviceMemory device = engine.open(layout(real));
          CopyStream stream = device.openStream(Direction.SAVE)) {
        CopySlice slice = new CopySlice(4);
        slice.add(device.regionAddress(0), host.address(), 1024);
        slice.add(0x1000, host.address() + 1024, 1024);
        assertThatThrownBy(() -> stream.submit(slice))
            .isInstanceOfSatisfying(
                DeviceException.class,
                e -> assertThat(e.kind()).isEqualTo(DeviceException.Kind.COPY))
            .hasMessageContaining("0x1000");
        slice.clear();
        slice.add(device.regionAddress(0) + 1024, host.address(), 1024);
        stream.submit(slice);
        assertThat(bytes(host, 0, 1)).containsExactly(42);
        assertThat(stream.completed()).isEqualTo(1);
      }
    }
  }

  @Test
  void submit_kernelCopiesLessThanAsked_goesOnWhereItStopped() throws Exception {
    try (ProcessEngine engine = engine(64 << 10)) {
      byte[] content = new byte[64 << 10];
      new java.util.Random(8).nextBytes(content);
      engine.poke(0, 0, content);
      AllocationHandle.ProcessMemory real = memory(engine);
      java.util.Random random = new java.util.Random(9);
      // Says less than was done: what it goes on with must be what it says is missing.
      ProcessCopyStream.Call partial =
          (vm, pid) -> {
            long copied = vm.read(pid);
            return copied < 10 ? copied : 1 + random.nextLong(copied);
          };
      MemorySegment host = arena.allocate(64 << 10, 8);
      try (DeviceMemory device = engine.open(layout(real));
          CopyStream stream =
              new ProcessCopyStream(
                  Direction.SAVE, PidFd.open(real.pid(), real.startTimeTicks()), partial)) {
        CopySlice slice = new CopySlice(64);
        for (int b = 0; b < 64; b++) {
          slice.add(device.regionAddress(0) + b * 1024L, host.address() + (63 - b) * 1024L, 1024);
        }
        assertThat(slice.count()).isEqualTo(64);
        stream.submit(slice);
        assertThat(stream.completed()).isEqualTo(1);
      }
      for (int b = 0; b < 64; b++) {
        assertThat(bytes(host, (63 - b) * 1024L, 1024)).isEqualTo(part(content, b * 1024, 1024));
      }
    }
  }

  @Test
  void openFences_anEngineWithoutEvents_hasNone() throws Exception {
    try (ProcessEngine engine = engine(64 << 10);
        DeviceMemory device = engine.open(layout(memory(engine)))) {
      assertThat(device.openFences(List.of(), (i, s) -> {}).count()).isZero();
      assertThatThrownBy(() -> device.openFences(List.of(new byte[64]), (i, s) -> {}))
          .isInstanceOf(DeviceException.class)
          .hasMessageContaining("1 event handles, wanted none");
    }
  }
}
