package io.flexkv.device;

import java.lang.foreign.MemorySegment;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Opens the memory of ranks by whatever kind of handle they register. CUDA is loaded, and the pool
 * pinned, with the first rank that needs it; on a machine without a GPU no class of it is touched.
 * Thread-safe; {@link #open} may take a second the first time.
 */
public final class Devices implements AutoCloseable {
  private final PinnedRanges pool;
  private final CudaCopyPath copyPath;
  private @Nullable CudaLibrary cuda;
  private @Nullable CudaPinner pinner;

  /**
   * @param poolSegments the host memory that jobs copy from and to; pinned for GPUs
   * @param copyPath which CUDA call copies; AUTO unless a driver misbehaves
   */
  public Devices(List<MemorySegment> poolSegments, CudaCopyPath copyPath) {
    this.pool = new PinnedRanges(poolSegments);
    this.copyPath = copyPath;
  }

  /**
   * Opens a rank's memory.
   *
   * @throws DeviceException LAYOUT, UNSUPPORTED or GONE, with the reason in the text
   */
  public DeviceMemory open(RankLayout layout) throws DeviceException {
    return switch (layout.allocations().getFirst()) {
      case AllocationHandle.ProcessMemory memory -> ProcessMemoryDevice.open(layout);
      case AllocationHandle.CudaIpc memory -> openCuda(layout, memory.gpuUuid());
      case AllocationHandle.PosixFd memory -> throw notServed(memory);
      case AllocationHandle.MemFd memory -> throw notServed(memory);
    };
  }

  private static DeviceException notServed(AllocationHandle handle) {
    return new DeviceException(
        DeviceException.Kind.UNSUPPORTED,
        "allocations of kind %s are not served by this version; wanted process or cuda_ipc"
            .formatted(handle.kind()));
  }

  private synchronized DeviceMemory openCuda(RankLayout layout, String uuid)
      throws DeviceException {
    if (cuda == null) {
      cuda = CudaLibrary.load();
    }
    CudaMemoryDevice device = CudaMemoryDevice.open(cuda, layout, copyPath, pool);
    if (pinner == null) {
      pinner = CudaPinner.start(cuda.gpu(uuid), pool);
    }
    return device;
  }

  /** Bytes of the pool that are pinned for GPUs; 0 without any. */
  public long pinnedBytes() {
    return pool.pinnedBytes();
  }

  /** Stops pinning. Devices that were opened are their owners' to close. */
  @Override
  public synchronized void close() {
    if (pinner != null) {
      pinner.close();
    }
  }
}
