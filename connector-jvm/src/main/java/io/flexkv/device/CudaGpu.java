package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import io.flexkv.ffm.CudaDriver;
import io.flexkv.ffm.SharedMemory;
import java.lang.System.Logger.Level;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.locks.Lock;
import jcuda.driver.CUcontext;
import jcuda.driver.CUdevice;
import jcuda.driver.CUstream;
import jcuda.driver.CUstream_flags;
import jcuda.driver.JCudaDriver;
import org.jspecify.annotations.Nullable;

/**
 * One GPU: its primary context, and the allocations of other processes that are mapped into it,
 * each base once however many registrations name it.
 */
final class CudaGpu {
  private static final System.Logger LOG = System.getLogger(CudaGpu.class.getName());
  private static final ThreadLocal<CUcontext> CURRENT = new ThreadLocal<>();

  private static final class Mapping {
    final long address;
    int users;

    Mapping(long address) {
      this.address = address;
    }
  }

  private final CudaDriver driver;
  private final String uuid;
  private final CUcontext context;
  private final Map<String, Mapping> mappings = new HashMap<>();
  private final CopyTraffic traffic;
  private @Nullable CudaLead lead;
  private boolean leadTried;

  private CudaGpu(CudaLibrary library, String uuid, CUcontext context) {
    this.driver = library.driver();
    this.traffic = library.traffic();
    this.uuid = uuid;
    this.context = context;
  }

  static CudaGpu open(CudaLibrary library, CUdevice device, String uuid) throws DeviceException {
    CUcontext context = new CUcontext();
    // What never was cannot be lost: an error here is no reason for another process.
    CudaLibrary.require(
        library.driver(),
        JCudaDriver.cuDevicePrimaryCtxRetain(context, device),
        "cuDevicePrimaryCtxRetain");
    return new CudaGpu(library, uuid, context);
  }

  CudaDriver driver() {
    return driver;
  }

  String uuid() {
    return uuid;
  }

  /** {@link CudaLibrary#traffic}. */
  CopyTraffic traffic() {
    return traffic;
  }

  /** Makes the context current on this thread, if another one is. */
  void makeCurrent() throws DeviceException {
    if (!context.equals(CURRENT.get())) {
      CudaLibrary.check(driver, JCudaDriver.cuCtxSetCurrent(context), "cuCtxSetCurrent");
      CURRENT.set(context);
    }
  }

  /**
   * Pins host memory, while no thread is given pages: it would wait for them in the driver, and
   * every copy with it.
   */
  void pin(long address, long bytes) throws CudaCallException {
    Lock noPopulation = SharedMemory.noPopulation();
    noPopulation.lock();
    try {
      driver.hostRegister(address, bytes);
    } finally {
      noPopulation.unlock();
    }
  }

  /** What may go before small loads; null where there is no memory for it. */
  synchronized @Nullable CudaLead lead() throws DeviceException {
    if (!leadTried) {
      makeCurrent();
      lead = CudaLead.make(this);
      leadTried = true;
    }
    return lead;
  }

  /** The address of another process's allocation here; {@link #unmap} as often as this. */
  synchronized long map(String handle) throws DeviceException {
    makeCurrent();
    Mapping mapping = mappings.get(handle);
    if (mapping == null) {
      try {
        mapping = new Mapping(driver.openMemory(HexFormat.of().parseHex(handle)));
      } catch (CudaCallException e) {
        throw failure(
            e,
            "the handle must be of another living process on this GPU, and of memory from"
                + " cudaMalloc (sleep mode and expandable segments use another kind)");
      }
      mappings.put(handle, mapping);
    }
    mapping.users++;
    return mapping.address;
  }

  /**
   * What a call on handles of another process failed for. Its result does not tell: so the context
   * is asked for something that needs no handle, which fails for one that is lost.
   *
   * @param wanted of the handle, where it is the handle
   * @return UNSUPPORTED, or GONE where the context is lost: another process would get a new one
   */
  DeviceException failure(CudaCallException failed, String wanted) {
    CUstream stream = new CUstream();
    int code = JCudaDriver.cuStreamCreate(stream, CUstream_flags.CU_STREAM_NON_BLOCKING);
    if (code == CudaDriver.SUCCESS) {
      JCudaDriver.cuStreamDestroy(stream);
    } else if (CudaLibrary.lost(code)) {
      return new DeviceException(
          DeviceException.Kind.GONE,
          "cuda: %s; this sidecar's context on GPU %s is lost (%s), another sidecar gets a new one"
              .formatted(failed.getMessage(), uuid, driver.errorName(code)),
          failed);
    }
    return new DeviceException(
        DeviceException.Kind.UNSUPPORTED,
        "cuda: %s; %s".formatted(failed.getMessage(), wanted),
        failed);
  }

  /** Gives back one use; the last one unmaps. */
  synchronized void unmap(String handle) {
    Mapping mapping = mappings.get(handle);
    if (mapping == null) {
      throw new IllegalStateException(
          "cuda: handle " + handle.substring(0, 16) + "… is not mapped");
    }
    if (--mapping.users > 0) {
      return;
    }
    mappings.remove(handle);
    try {
      makeCurrent();
      driver.closeMemory(mapping.address);
    } catch (CudaCallException | DeviceException e) {
      LOG.log(Level.WARNING, "GPU memory of an engine stays mapped: {0}", e.getMessage());
    }
  }
}
