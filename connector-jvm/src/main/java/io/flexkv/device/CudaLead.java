package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import io.flexkv.ffm.CudaDriver;
import java.lang.System.Logger.Level;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import jcuda.driver.CUdeviceptr;
import jcuda.driver.JCudaDriver;
import org.jspecify.annotations.Nullable;

/**
 * A copy of {@value #BYTES} bytes to memory of our own on a GPU, to go before each call of small
 * ones. Small copies to the GPU that meet nothing on their stream are written by the processor, two
 * to four microseconds each; behind a copy that the engine makes, however short, the engine makes
 * them too (docs/decisions/small-loads-follow-a-larger-copy.md).
 *
 * <p>One for each GPU, shared by its streams: all write the same zeros. It stays as long as the
 * process.
 */
final class CudaLead {
  /** The shortest that the engine makes: copies of less are what goes wrong. */
  static final long BYTES = 32 << 10;

  private static final System.Logger LOG = System.getLogger(CudaLead.class.getName());

  private static final class Address extends CUdeviceptr {
    long value() {
      return getNativePointer() + getByteOffset();
    }
  }

  private final CudaDriver driver;
  private final long device;
  private final MemorySegment host;

  private CudaLead(CudaDriver driver, long device, MemorySegment host) {
    this.driver = driver;
    this.device = device;
    this.host = host;
  }

  /** The context is current. Null where there is no memory for it: then copies are slower. */
  static @Nullable CudaLead make(CudaGpu gpu) {
    CudaDriver driver = gpu.driver();
    Address device = new Address();
    int code = JCudaDriver.cuMemAlloc(device, BYTES);
    if (code != CudaDriver.SUCCESS) {
      LOG.log(Level.DEBUG, "no lead for small loads: cuMemAlloc: {0}", driver.errorName(code));
      return null;
    }
    MemorySegment host = Arena.global().allocate(BYTES, 4096);
    try {
      gpu.pin(host.address(), BYTES);
    } catch (CudaCallException e) {
      LOG.log(Level.DEBUG, "no lead for small loads: {0}", e.getMessage());
      JCudaDriver.cuMemFree(device);
      return null;
    }
    return new CudaLead(driver, device.value(), host);
  }

  /** Submits it; a {@code CUresult}. */
  int submit(long stream) {
    return driver.copyToDevice(device, host.address(), BYTES, stream);
  }
}
