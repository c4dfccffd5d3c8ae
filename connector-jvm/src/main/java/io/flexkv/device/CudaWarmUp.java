package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import io.flexkv.ffm.CudaDriver;
import java.lang.System.Logger.Level;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import jcuda.driver.CUdeviceptr;
import jcuda.driver.CUstream;
import jcuda.driver.JCudaDriver;

/**
 * Batches of plain copies between memory of our own, before a stream is used. A stream that has
 * never had one moves strided copies more slowly for good: the driver takes two microseconds more
 * for each (measured on an H200, driver 580: 4 KiB rows at 18 instead of 26 GB/s; why is its own).
 */
final class CudaWarmUp {
  private static final System.Logger LOG = System.getLogger(CudaWarmUp.class.getName());
  private static final int COPIES = 512;
  private static final int CALLS = 64;
  private static final long BYTES = 4096;

  /** Twice what is copied, so that no two copies are neighbours. */
  private static final long PITCH = 2 * BYTES;

  /** JCuda keeps a handle's value to subclasses. */
  private static final class Memory extends CUdeviceptr {
    long address() {
      return getNativePointer();
    }
  }

  private CudaWarmUp() {}

  /** Does it, and waits for its end. Where something is refused, the stream is as it was. */
  static void run(
      CudaGpu gpu, CudaCopyPath path, Direction direction, long address, CUstream stream) {
    if (path == CudaCopyPath.LOOP) {
      return;
    }
    CudaDriver driver = gpu.driver();
    Memory memory = new Memory();
    try (Arena arena = Arena.ofShared()) {
      MemorySegment host = arena.allocate(COPIES * PITCH, 4096);
      int code = JCudaDriver.cuMemAlloc(memory, COPIES * PITCH);
      if (code == CudaDriver.SUCCESS) {
        code = copy(driver, path, direction, address, stream, memory.address(), host);
        note(driver, code, "copying");
        code = JCudaDriver.cuMemFree(memory);
      }
      note(driver, code, "memory");
    }
  }

  private static int copy(
      CudaDriver driver,
      CudaCopyPath path,
      Direction direction,
      long address,
      CUstream stream,
      long device,
      MemorySegment host) {
    try {
      driver.hostRegister(host.address(), host.byteSize());
    } catch (CudaCallException e) {
      LOG.log(Level.DEBUG, "warming up a stream: {0}", e.getMessage());
      return CudaDriver.SUCCESS;
    }
    PinnedRanges range = new PinnedRanges(List.of(host));
    range.pinnedUpTo(0, host.byteSize());
    CudaBatch batch = new CudaBatch(driver, path, direction, range, COPIES);
    CopySlice slice = new CopySlice(COPIES);
    for (int i = 0; i < COPIES; i++) {
      slice.add(device + i * PITCH, host.address() + i * PITCH, BYTES);
    }
    int code = CudaDriver.SUCCESS;
    for (int i = 0; i < CALLS && code == CudaDriver.SUCCESS; i++) {
      code = batch.submit(slice, address);
    }
    int ended = JCudaDriver.cuStreamSynchronize(stream);
    try {
      driver.hostUnregister(host.address());
    } catch (CudaCallException e) {
      LOG.log(Level.WARNING, "warming up a stream: {0}", e.getMessage());
    }
    return code == CudaDriver.SUCCESS ? ended : code;
  }

  private static void note(CudaDriver driver, int code, String what) {
    if (code != CudaDriver.SUCCESS) {
      LOG.log(
          Level.DEBUG,
          "warming up a stream: {0}",
          CudaLibrary.failure(driver, code, what).getMessage());
    }
  }
}
