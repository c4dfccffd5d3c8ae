package io.flexkv.device;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;

/** Memory of the test's own process, reached through {@link FakeDevice}. */
public final class FakeEngine implements EngineMemory {
  private final Arena arena = Arena.ofShared();
  private final List<MemorySegment> memory = new ArrayList<>();
  private final List<FakeDevice> devices = new ArrayList<>();

  public FakeEngine(long... allocationBytes) {
    for (long bytes : allocationBytes) {
      memory.add(arena.allocate(bytes, 64));
    }
  }

  @Override
  public List<AllocationHandle> allocations() {
    return memory.stream()
        .<AllocationHandle>map(
            m -> new AllocationHandle.ProcessMemory(1, 1, m.address(), m.byteSize()))
        .toList();
  }

  @Override
  public byte[] peek(int allocation, long offset, int length) {
    return memory.get(allocation).asSlice(offset, length).toArray(ValueLayout.JAVA_BYTE);
  }

  @Override
  public void poke(int allocation, long offset, byte[] bytes) {
    MemorySegment.copy(
        bytes, 0, memory.get(allocation), ValueLayout.JAVA_BYTE, offset, bytes.length);
  }

  @Override
  public FakeDevice open(RankLayout layout) {
    FakeDevice device = new FakeDevice(layout);
    devices.add(device);
    return device;
  }

  @Override
  public void kill() {
    devices.forEach(device -> device.gone = true);
  }

  @Override
  public void close() {
    arena.close();
  }
}
