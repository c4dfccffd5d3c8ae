package io.flexkv.device;

import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.function.BooleanSupplier;
import org.jspecify.annotations.Nullable;

/**
 * Opens the memory of ranks by whatever kind of handle they register. CUDA is loaded by {@link
 * #prepare} where there is a GPU, or with the first rank that needs it, and the pool is pinned with
 * that rank; on a machine without a GPU no class of it is touched.
 *
 * <p>Thread-safe. {@link #open} may take two seconds the first time, and where a GPU hangs, for
 * ever: it holds no monitor meanwhile that anybody needs for another GPU, or for {@link #close},
 * and no more than {@value #MAX_OPENING} threads wait for one GPU.
 */
public final class Devices implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger(Devices.class.getName());

  /** There where a driver for NVIDIA's GPUs is loaded. */
  private static final Path NVIDIA = Path.of("/dev/nvidiactl");

  /** More than there are engines on one GPU. */
  static final int MAX_OPENING = 24;

  private final PinnedRanges pool;
  private final Gpus gpus;

  /** By GPU, how many wait for it right now. */
  private final ConcurrentMap<String, Integer> opening = new ConcurrentHashMap<>();

  private @Nullable PoolPinner pinner;
  private boolean closed;
  private BooleanSupplier pagesAreThere = () -> true;
  private long pinnedMeanwhile = Long.MAX_VALUE;

  /**
   * @param poolSegments the host memory that jobs copy from and to; pinned for GPUs
   * @param copyPath which CUDA call copies; AUTO unless a driver misbehaves ({@code gpu_copy_path})
   */
  public Devices(List<MemorySegment> poolSegments, CudaCopyPath copyPath) {
    this.pool = new PinnedRanges(poolSegments);
    this.gpus = new CudaGpus(pool, copyPath);
  }

  Devices(Gpus gpus) {
    this.pool = new PinnedRanges(List.of());
    this.gpus = gpus;
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

  private void loadCuda() {
    try {
      gpus.load();
    } catch (DeviceException e) {
      LOG.log(Level.DEBUG, "CUDA is not loaded ahead: {0}", e.getMessage());
    }
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
      case AllocationHandle.CudaIpc memory -> openCuda(layout, memory.gpu());
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

  private DeviceMemory openCuda(RankLayout layout, String gpu) throws DeviceException {
    int waiting = opening.merge(gpu, 1, Integer::sum);
    try {
      if (waiting > MAX_OPENING) {
        throw new DeviceException(
            DeviceException.Kind.UNSUPPORTED,
            "GPU %s does not answer: %d ranks wait for it to map their memory; restart this sidecar"
                .formatted(gpu, MAX_OPENING));
      }
      DeviceMemory memory = gpus.open(layout);
      pin(gpu);
      return memory;
    } finally {
      opening.computeIfPresent(gpu, (key, count) -> count == 1 ? null : count - 1);
    }
  }

  private synchronized void pin(String gpu) throws DeviceException {
    if (pinner == null && !closed) {
      pinner = gpus.pin(gpu, pagesAreThere, pinnedMeanwhile);
    }
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
    PoolPinner running;
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

  /** Stops pinning, at once. Devices that were opened are their owners' to close. */
  @Override
  public synchronized void close() {
    closed = true;
    if (pinner != null) {
      pinner.close();
    }
  }
}
