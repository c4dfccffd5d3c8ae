package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import io.flexkv.ffm.CudaDriver;
import java.io.IOException;
import java.lang.System.Logger.Level;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeSet;
import java.util.stream.Stream;
import jcuda.driver.CUdevice;
import jcuda.driver.CUuuid;
import jcuda.driver.JCudaDriver;

/**
 * CUDA in this process: the driver found, JCuda loaded, devices known by UUID. Made on the first
 * registration of CUDA memory; on a machine without a GPU this class, and with it JCuda, is never
 * loaded.
 *
 * <p>JCuda loads its native part from a fixed name under {@code java.io.tmpdir}, and takes whatever
 * lies there. So for that moment the property names a new directory that only this user can enter.
 * JCuda ends the JVM when a function is missing in the driver; therefore all that are called are
 * looked up before.
 */
final class CudaLibrary {
  private static final System.Logger LOG = System.getLogger(CudaLibrary.class.getName());

  private static final int INVALID_VALUE = 1;
  private static final int NOT_PERMITTED = 800;
  private static final int NOT_SUPPORTED = 801;

  /** What is called through JCuda, by the driver's names. */
  private static final List<String> CALLED_BY_JCUDA =
      List.of(
          "cuInit",
          "cuDriverGetVersion",
          "cuDeviceGetCount",
          "cuDeviceGet",
          "cuDeviceGetUuid",
          "cuDevicePrimaryCtxRetain",
          "cuCtxSetCurrent",
          "cuStreamCreate",
          "cuStreamSynchronize",
          "cuStreamDestroy_v2",
          "cuEventCreate",
          "cuEventRecord",
          "cuEventDestroy_v2");

  private static final String TMPDIR = "java.io.tmpdir";

  private final CudaDriver driver;
  private final int version;
  private final Map<String, CUdevice> devices;
  private final OnceEach<CudaGpu> gpus;
  private final CopyTraffic traffic = new CopyTraffic();

  private CudaLibrary(CudaDriver driver, int version, Map<String, CUdevice> devices) {
    this.driver = driver;
    this.version = version;
    this.devices = devices;
    this.gpus = new OnceEach<>(devices.keySet());
  }

  /**
   * Finds the driver and loads JCuda.
   *
   * @throws DeviceException UNSUPPORTED, with what is missing
   */
  static CudaLibrary load() throws DeviceException {
    CudaDriver driver = findDriver();
    List<String> missing = driver.missing(CALLED_BY_JCUDA);
    if (!missing.isEmpty()) {
      throw unsupported(
          "the driver lacks " + missing + "; a driver for CUDA 12.6 or newer has them");
    }
    loadJCuda();
    require(driver, JCudaDriver.cuInit(0), "cuInit");
    int[] version = new int[1];
    require(driver, JCudaDriver.cuDriverGetVersion(version), "cuDriverGetVersion");
    Map<String, CUdevice> devices = new HashMap<>();
    int[] count = new int[1];
    require(driver, JCudaDriver.cuDeviceGetCount(count), "cuDeviceGetCount");
    for (int i = 0; i < count[0]; i++) {
      CUdevice device = new CUdevice();
      require(driver, JCudaDriver.cuDeviceGet(device, i), "cuDeviceGet");
      devices.put(HexFormat.of().formatHex(uuid(driver, i, device)), device);
    }
    LOG.log(
        Level.INFO,
        "CUDA driver {0}, {1} GPU(s), batched copies: v2 {2}, v1 {3}",
        Integer.toString(version[0]),
        count[0],
        driver.hasBatchV2() ? "yes" : "no",
        driver.hasBatchV1() ? "yes" : "no");
    return new CudaLibrary(driver, version[0], devices);
  }

  /** As engines name it: by the newer call, which JCuda lacks, where the driver has it. */
  private static byte[] uuid(CudaDriver driver, int ordinal, CUdevice device)
      throws DeviceException {
    try {
      Optional<byte[]> newer = driver.uuid(ordinal);
      if (newer.isPresent()) {
        return newer.get();
      }
    } catch (CudaCallException e) {
      throw new DeviceException(kind(e.code()), "cuda: " + e.getMessage(), e);
    }
    CUuuid uuid = new CUuuid();
    require(driver, JCudaDriver.cuDeviceGetUuid(uuid, device), "cuDeviceGetUuid");
    return uuid.bytes;
  }

  private static CudaDriver findDriver() throws DeviceException {
    Optional<CudaDriver> found;
    try {
      found = CudaDriver.find();
    } catch (UnsatisfiedLinkError e) {
      throw new DeviceException(DeviceException.Kind.UNSUPPORTED, "cuda: " + e.getMessage(), e);
    }
    return found.orElseThrow(
        () -> unsupported("libcuda.so.1 not found; in a container, give it the GPU's driver"));
  }

  private static void loadJCuda() throws DeviceException {
    String before = System.getProperty(TMPDIR);
    Path folder = null;
    try {
      folder = Files.createTempDirectory("flexkv-jcuda-"); // mode 0700
      System.setProperty(TMPDIR, folder.toString());
      JCudaDriver.setExceptionsEnabled(false); // every result is checked here instead
    } catch (IOException | LinkageError e) {
      throw new DeviceException(
          DeviceException.Kind.UNSUPPORTED, "cuda: JCuda cannot be loaded: " + e, e);
    } finally {
      System.setProperty(TMPDIR, before);
      if (folder != null) {
        remove(folder); // a loaded library stays, though its name is gone
      }
    }
  }

  private static void remove(Path folder) {
    try (Stream<Path> files = Files.walk(folder)) {
      for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
        Files.delete(file);
      }
    } catch (IOException e) {
      LOG.log(Level.DEBUG, "left behind: {0}", e.getMessage());
    }
  }

  static DeviceException unsupported(String text) {
    return new DeviceException(DeviceException.Kind.UNSUPPORTED, "cuda: " + text);
  }

  /** As {@link #check}, for what comes before there is anything that could be lost. */
  static void require(CudaDriver driver, int code, String call) throws DeviceException {
    if (code != CudaDriver.SUCCESS) {
      throw unsupported(said(driver, code, call));
    }
  }

  /** Turns a result into an exception that says whether anything still works. */
  static void check(CudaDriver driver, int code, String call) throws DeviceException {
    if (code != CudaDriver.SUCCESS) {
      throw failure(driver, code, call);
    }
  }

  static DeviceException failure(CudaDriver driver, int code, String call) {
    return new DeviceException(kind(code), "cuda: " + said(driver, code, call));
  }

  private static String said(CudaDriver driver, int code, String call) {
    return "%s failed: %s (%d)".formatted(call, driver.errorName(code), code);
  }

  /**
   * Errors of one call against errors of the context. Those of the context are sticky: every later
   * call fails, and no copy runs any more.
   */
  static DeviceException.Kind kind(int code) {
    return switch (code) {
      // invalid value, out of memory, invalid device, invalid context (of this thread), map
      // failed, already mapped, invalid handle, not found, host memory (not) registered, not
      // permitted, not supported
      case 1, 2, 101, 201, 205, 208, 400, 500, 712, 713, 800, 801 -> DeviceException.Kind.COPY;
      default -> DeviceException.Kind.GONE;
    };
  }

  /**
   * Whether the context is lost for good, by an error that says so itself: a shortage of the
   * system's or the driver's is none, however a call fails for it.
   */
  static boolean lost(int code) {
    return switch (code) {
      // deinitialized, ECC or NVLink uncorrectable, illegal address, launch timeout, context
      // destroyed, assert, hardware stack error, illegal instruction, misaligned or invalid
      // address, invalid program counter, launch failed
      case 4, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719 -> true;
      default -> false;
    };
  }

  /** What was to be made for a rank cannot be: GONE only where the context is lost. */
  static DeviceException notMade(CudaDriver driver, int code, String call) {
    return lost(code) ? failure(driver, code, call) : unsupported(said(driver, code, call));
  }

  /** Whether a driver with this answer to a copy will never take one like it. */
  static boolean refuses(int code) {
    return code == INVALID_VALUE || code == NOT_PERMITTED || code == NOT_SUPPORTED;
  }

  CudaDriver driver() {
    return driver;
  }

  /** The copies of all GPUs. */
  CopyTraffic traffic() {
    return traffic;
  }

  /** E.g. 13000 for CUDA 13.0. */
  int version() {
    return version;
  }

  /** The GPU of this UUID, with its primary context; retained for the life of the process. */
  CudaGpu gpu(String uuid) throws DeviceException {
    String key = AllocationHandle.CudaIpc.normalized(uuid);
    CUdevice device = devices.get(key);
    if (device == null) {
      throw unsupported(
          "GPU %s is not visible to the sidecar (it sees %s); remedy: give its container every GPU"
                  .formatted(uuid, new TreeSet<>(devices.keySet()))
              + " that engines use, and where you start it yourself (flexkv serve), start it without"
              + " CUDA_VISIBLE_DEVICES; of MIG instances it sees one, so another needs a sidecar of"
              + " its own (FLEXKV_SERVER_RECV_PORT)");
    }
    return gpus.get(key, () -> CudaGpu.open(this, device, key));
  }
}
