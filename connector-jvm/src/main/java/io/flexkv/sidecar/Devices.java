package io.flexkv.sidecar;

import io.flexkv.device.AllocationHandle;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.ProcessMemoryDevice;
import io.flexkv.device.RankLayout;

/** Which backend opens which kind of memory. */
final class Devices {
  private Devices() {}

  static DeviceMemory open(RankLayout layout) throws DeviceException {
    AllocationHandle first = layout.allocations().getFirst();
    return switch (first) {
      case AllocationHandle.ProcessMemory memory -> ProcessMemoryDevice.open(layout);
      case AllocationHandle.CudaIpc memory -> throw unsupported(first);
      case AllocationHandle.PosixFd memory -> throw unsupported(first);
      case AllocationHandle.MemFd memory -> throw unsupported(first);
    };
  }

  private static DeviceException unsupported(AllocationHandle handle) {
    return new DeviceException(
        DeviceException.Kind.UNSUPPORTED,
        "allocations of kind %s are not served by this build".formatted(handle.kind()));
  }
}
