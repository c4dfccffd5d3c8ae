package io.flexkv.device;

import java.util.function.BooleanSupplier;

/**
 * The GPUs of this machine, as {@link Devices} uses them. Any call may take as long as a driver
 * likes, and several run at once. Thread-safe.
 */
interface Gpus {
  /** Loads the driver, if that has not been done. */
  void load() throws DeviceException;

  /** Maps the memory of a rank. */
  DeviceMemory open(RankLayout layout) throws DeviceException;

  /**
   * Begins to pin the pool, by a GPU of which memory was opened before: it waits for nothing.
   *
   * @param gpu {@link AllocationHandle.CudaIpc#gpu}
   * @param pagesAreThere until it is true no more than {@code meanwhile} bytes are pinned
   */
  PoolPinner pin(String gpu, BooleanSupplier pagesAreThere, long meanwhile) throws DeviceException;
}
