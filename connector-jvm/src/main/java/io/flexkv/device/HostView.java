package io.flexkv.device;

import java.lang.foreign.MemorySegment;
import java.util.List;

/** A rank's memory as {@link DeviceMemory#withHost} gives it: all of it but its end. */
class HostView implements DeviceMemory {
  private final DeviceMemory memory;

  HostView(DeviceMemory memory) {
    this.memory = memory;
  }

  @Override
  public RankLayout layout() {
    return memory.layout();
  }

  @Override
  public long regionAddress(int region) {
    return memory.regionAddress(region);
  }

  @Override
  public CopyStream openStream(Direction direction) throws DeviceException {
    return memory.openStream(direction);
  }

  @Override
  public FenceRing openFences(List<byte[]> handles, FenceRing.Seen onSeen) throws DeviceException {
    return memory.openFences(handles, onSeen);
  }

  @Override
  public DeviceMemory withHost(MemorySegment host) throws DeviceException {
    return memory.withHost(host);
  }

  /** The rank's memory stays open. */
  @Override
  public void close() {}
}
