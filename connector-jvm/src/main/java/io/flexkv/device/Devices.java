package io.flexkv.device;

import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.BooleanSupplier;
import org.jspecify.annotations.Nullable;

/**
 * Opens the memory of ranks by whatever kind of handle they register. CUDA is loaded by {@link
 * #prepare} where there is a GPU, or with the first rank that needs it, and the pool is pinned with
 * that rank; on a machine without a GPU no class of it is touched. Thread-safe; {@link #open} may
 * take two seconds the first time.
 */
public final class Devices implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger(Devices.class.getName());

  /** There where a driver for NVIDIA's GPUs is loaded. */
  private static final Path NVIDIA = Path.of("/dev/nvidiactl");

  private final PinnedRanges pool;
  private final CudaCopyPath copyPath;
  private @Nullable CudaLibrary cuda;
  private @Nullable CudaPinner pinner;
  private BooleanSupplier pagesAreThere = () -> true;
  private long pinnedMeanwhile = Long.MAX_VALUE;

  /**
   * @param poolSegments the host memory that jobs copy from and to; pinned for GPUs
   * @param copyPath which CUDA call copies; AUTO unless a driver misbehaves
   */
  public Devices(List<MemorySegment> poolSegments, CudaCopyPath copyPath) {
    this.pool = new PinnedRanges(poolSegments);
    this.copyPath = copyPath;
  }

  /**
   * Loads CUDA ahead of the first rank, in a thread of its own: finding the GPUs takes the driver
   * more than a second, and no rank need wait for it. Makes no context, so takes no GPU memory.
   * What fails here fails again, and is told, when a rank registers.
   */
  public void prepare() {
    if (Files.exists(NVIDIA)) {
      Thread.ofPlatform().name("flexkv-cuda").daemon().start(this::loadCuda);
    }
  }

  private synchronized void loadCuda() {
    try {
      library();
    } catch (DeviceException e) {
      LOG.log(Level.DEBUG, "CUDA is not loaded ahead: {0}", e.getMessage());
    }
  }

  private synchronized CudaLibrary library() throws DeviceException {
    if (cuda == null) {
      cuda = CudaLibrary.load();
    }
    return cuda;
  }

  /**
   * While other threads give the pool its pages, pins no more than its beginning: whoever pins
   * meanwhile waits for them inside the driver, and every copy with him (measured: 274 ms). Before
   * the first {@link #open}.
   *
   * @param there asked from the pinning thread; must become true
   */
  public synchronized void pinAfter(BooleanSupplier there, long bytesMeanwhile) {
    pagesAreThere = there;
    pinnedMeanwhile = bytesMeanwhile;
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
    CudaLibrary library = library();
    CudaMemoryDevice device = CudaMemoryDevice.open(library, layout, copyPath, pool);
    if (pinner == null) {
      pinner = CudaPinner.start(library.gpu(uuid), pool, pagesAreThere, pinnedMeanwhile);
    }
    return device;
  }

  /**
   * The pool has other lengths from now on, or more segments. What is new is pinned in the
   * background; what has gone is unpinned before this returns, which at 100 GB may take many
   * seconds. No copy may touch that any more.
   *
   * @param poolSegments the same segments, the last of them shorter, longer, gone or added
   * @return by segment, the bytes from its start on that stay pinned: some more than its length,
   *     where that is no border of what was pinned at once, or where the driver refuses
   */
  public long[] resized(List<MemorySegment> poolSegments) throws InterruptedException {
    CudaPinner running;
    synchronized (this) {
      pool.resize(poolSegments);
      running = pinner;
      if (running != null) {
        running.resized();
      }
    }
    if (running != null) {
      running.awaitUnpinned();
    }
    return pool.pinnedOfEach();
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
