package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * The memory of a rank on a GPU: its allocations mapped by CUDA IPC, each base once, copies by the
 * GPU's copy engines, no kernels.
 *
 * <p>The engine's end is not seen here (its memory stays mapped until this closes): the session
 * that registered it knows, and closes this.
 */
final class CudaMemoryDevice implements DeviceMemory {
  private final RankLayout layout;
  private final CudaGpu gpu;
  private final CudaCopyPath path;
  private final PinnedRanges pool;
  private final List<String> mapped = new ArrayList<>();
  private final long[] allocationAddress;

  private CudaMemoryDevice(RankLayout layout, CudaGpu gpu, CudaCopyPath path, PinnedRanges pool) {
    this.layout = layout;
    this.gpu = gpu;
    this.path = path;
    this.pool = pool;
    this.allocationAddress = new long[layout.allocations().size()];
  }

  static CudaMemoryDevice open(
      CudaLibrary library, RankLayout layout, CudaCopyPath wanted, PinnedRanges pool)
      throws DeviceException {
    AllocationHandle.CudaIpc first = cuda(layout.allocations().getFirst());
    CudaGpu gpu = library.gpu(first.gpuUuid());
    CudaCopyPath path = CudaBatch.choose(library.driver(), wanted);
    CudaMemoryDevice device = new CudaMemoryDevice(layout, gpu, path, pool);
    try {
      for (int i = 0; i < layout.allocations().size(); i++) {
        device.mapAllocation(i, cuda(layout.allocations().get(i)), first);
      }
      return device;
    } catch (DeviceException e) {
      device.close();
      throw e;
    }
  }

  private static AllocationHandle.CudaIpc cuda(AllocationHandle handle) throws DeviceException {
    if (handle instanceof AllocationHandle.CudaIpc ipc) {
      return ipc;
    }
    throw CudaLibrary.unsupported(
        "allocation of kind %s, wanted cuda_ipc".formatted(handle.kind()));
  }

  private void mapAllocation(
      int index, AllocationHandle.CudaIpc handle, AllocationHandle.CudaIpc first)
      throws DeviceException {
    if (!handle.gpu().equals(first.gpu())) {
      throw DeviceException.layout(
          "allocations on two GPUs: %s and %s", first.gpuUuid(), handle.gpuUuid());
    }
    long base = gpu.map(handle.handle());
    mapped.add(handle.handle());
    allocationAddress[index] = base + handle.offset();
    long there;
    try {
      there = gpu.driver().bytesFrom(base);
    } catch (CudaCallException e) {
      throw gpu.failure(e, "allocation %d is not what was mapped".formatted(index));
    }
    if (handle.offset() > there - handle.length()) {
      throw DeviceException.layout(
          "allocation %d: offset %d and length %d end beyond its %d bytes",
          index, handle.offset(), handle.length(), there);
    }
  }

  @Override
  public RankLayout layout() {
    return layout;
  }

  @Override
  public long regionAddress(int region) {
    Region r = layout.regions().get(region);
    return allocationAddress[r.allocation()] + r.offset();
  }

  @Override
  public CopyStream openStream(Direction direction) throws DeviceException {
    return new CudaCopyStream(gpu, path, direction, pool);
  }

  @Override
  public FenceRing openFences(List<byte[]> handles, FenceRing.Seen onSeen) throws DeviceException {
    return new FenceRing(handles.size(), CudaEvents.open(gpu, handles), onSeen);
  }

  @Override
  public DeviceMemory withHost(MemorySegment host) throws DeviceException {
    return CudaScratch.open(this, gpu, path, host);
  }

  @Override
  public synchronized void close() {
    mapped.forEach(gpu::unmap);
    mapped.clear();
  }
}
