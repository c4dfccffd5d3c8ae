package io.flexkv.device;

final class FakeDeviceTest extends DeviceMemoryContract {
  @Override
  EngineMemory engine(long... allocationBytes) {
    return new FakeEngine(allocationBytes);
  }
}
