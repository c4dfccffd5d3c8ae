package io.flexkv.device;

import java.lang.System.Logger.Level;
import java.util.function.BooleanSupplier;
import org.jspecify.annotations.Nullable;

/**
 * The GPUs that CUDA finds. Its monitor is held while the driver is loaded, which nobody can do
 * without, and not while a GPU is used.
 */
final class CudaGpus implements Gpus {
  private static final System.Logger LOG = System.getLogger(CudaGpus.class.getName());

  private final PinnedRanges pool;
  private final CudaCopyPath copyPath;
  private @Nullable CudaLibrary cuda;

  CudaGpus(PinnedRanges pool, CudaCopyPath copyPath) {
    this.pool = pool;
    this.copyPath = copyPath;
  }

  private synchronized CudaLibrary library() throws DeviceException {
    if (cuda == null) {
      cuda = CudaLibrary.load();
      CudaCopyPath path = CudaBatch.choose(cuda.driver(), copyPath);
      LOG.log(Level.INFO, "copies by {0} (gpu_copy_path: {1})", path, copyPath);
    }
    return cuda;
  }

  @Override
  public void load() throws DeviceException {
    library();
  }

  @Override
  public DeviceMemory open(RankLayout layout) throws DeviceException {
    return CudaMemoryDevice.open(library(), layout, copyPath, pool);
  }

  @Override
  public PoolPinner pin(String gpu, BooleanSupplier pagesAreThere, long meanwhile)
      throws DeviceException {
    return CudaPinner.start(library().gpu(gpu), pool, pagesAreThere, meanwhile);
  }
}
