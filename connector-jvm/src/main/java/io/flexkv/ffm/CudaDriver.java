package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.StructLayout;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/**
 * The CUDA driver, {@code libcuda.so.1}: what JCuda 12.6 lacks (batched copies), cannot be given
 * from outside (IPC handles: its classes have no way to fill one), or makes dear (a pointer object
 * a copy). Contexts and streams come from JCuda; both are one and the same library in this process.
 *
 * <p>Every symbol is looked up before anything is called: {@link #find} answers empty without a
 * driver, {@link #missing} names what a caller wants and this driver has not. Calls need a current
 * context unless they say otherwise. Results are {@code CUresult}: 0 is success.
 */
public final class CudaDriver {
  /** {@code CUDA_SUCCESS}. */
  public static final int SUCCESS = 0;

  /** {@code CUDA_ERROR_NOT_READY}: the event is not complete yet. */
  public static final int NOT_READY = 600;

  /** Bytes of an IPC handle of memory or of an event. */
  public static final int IPC_HANDLE_BYTES = 64;

  /** Bytes of {@code CUmemcpyAttributes}. */
  public static final int ATTRIBUTES_BYTES = 24;

  private static final int UUID_BYTES = 16;
  private static final String LIBRARY = "libcuda.so.1";
  private static final int LAZY_PEER_ACCESS = 1;
  private static final int HOST_REGISTER_PORTABLE = 1;
  private static final StructLayout HANDLE =
      MemoryLayout.structLayout(MemoryLayout.sequenceLayout(IPC_HANDLE_BYTES, JAVA_BYTE));

  private final SymbolLookup library;
  private final AtomicLong mappings = new AtomicLong();
  private final MethodHandle getErrorName;
  private final MethodHandle openMemory;
  private final MethodHandle closeMemory;
  private final MethodHandle openEvent;
  private final MethodHandle queryEvent;
  private final MethodHandle queryStream;
  private final MethodHandle destroyEvent;
  private final MethodHandle addressRange;
  private final MethodHandle hostRegister;
  private final MethodHandle hostUnregister;
  private final MethodHandle copyToDevice;
  private final MethodHandle copyToHost;
  private final @Nullable MethodHandle batchV1;
  private final @Nullable MethodHandle batchV2;
  private final @Nullable MethodHandle batch3dV1;
  private final @Nullable MethodHandle batch3dV2;
  private final MethodHandle copy2d;
  private final MethodHandle device;
  private final @Nullable MethodHandle deviceUuid;

  private CudaDriver(SymbolLookup library) {
    this.library = library;
    FunctionDescriptor oneAddress = FunctionDescriptor.of(JAVA_INT, JAVA_LONG);
    FunctionDescriptor openHandle = FunctionDescriptor.of(JAVA_INT, ADDRESS, HANDLE);
    FunctionDescriptor copy =
        FunctionDescriptor.of(JAVA_INT, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG);
    this.getErrorName =
        required("cuGetErrorName", FunctionDescriptor.of(JAVA_INT, JAVA_INT, ADDRESS));
    this.openMemory =
        required(
            "cuIpcOpenMemHandle_v2", FunctionDescriptor.of(JAVA_INT, ADDRESS, HANDLE, JAVA_INT));
    this.closeMemory = required("cuIpcCloseMemHandle", oneAddress);
    this.openEvent = required("cuIpcOpenEventHandle", openHandle);
    this.queryEvent = required("cuEventQuery", oneAddress);
    this.queryStream = required("cuStreamQuery", oneAddress);
    this.destroyEvent = required("cuEventDestroy_v2", oneAddress);
    this.addressRange =
        required(
            "cuMemGetAddressRange_v2",
            FunctionDescriptor.of(JAVA_INT, ADDRESS, ADDRESS, JAVA_LONG));
    this.hostRegister =
        required(
            "cuMemHostRegister_v2",
            FunctionDescriptor.of(JAVA_INT, JAVA_LONG, JAVA_LONG, JAVA_INT));
    this.hostUnregister = required("cuMemHostUnregister", oneAddress);
    this.copyToDevice = required("cuMemcpyHtoDAsync_v2", copy);
    this.copyToHost = required("cuMemcpyDtoHAsync_v2", copy);
    this.batchV1 =
        optional(
            "cuMemcpyBatchAsync",
            FunctionDescriptor.of(
                JAVA_INT, ADDRESS, ADDRESS, ADDRESS, JAVA_LONG, ADDRESS, ADDRESS, JAVA_LONG,
                ADDRESS, JAVA_LONG));
    this.batchV2 =
        optional(
            "cuMemcpyBatchAsync_v2",
            FunctionDescriptor.of(
                JAVA_INT, ADDRESS, ADDRESS, ADDRESS, JAVA_LONG, ADDRESS, ADDRESS, JAVA_LONG,
                JAVA_LONG));
    this.batch3dV1 =
        optional(
            "cuMemcpy3DBatchAsync",
            FunctionDescriptor.of(JAVA_INT, JAVA_LONG, ADDRESS, ADDRESS, JAVA_LONG, JAVA_LONG));
    this.batch3dV2 =
        optional(
            "cuMemcpy3DBatchAsync_v2",
            FunctionDescriptor.of(JAVA_INT, JAVA_LONG, ADDRESS, JAVA_LONG, JAVA_LONG));
    this.copy2d =
        required("cuMemcpy2DAsync_v2", FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_LONG));
    FunctionDescriptor ofDevice = FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_INT);
    this.device = required("cuDeviceGet", ofDevice);
    this.deviceUuid = optional("cuDeviceGetUuid_v2", ofDevice);
  }

  /**
   * Loads the driver's library.
   *
   * @return empty on a machine without a CUDA driver
   * @throws UnsatisfiedLinkError if it is there but lacks a function that no copy can do without;
   *     names the function
   */
  public static Optional<CudaDriver> find() {
    SymbolLookup library;
    try {
      library = SymbolLookup.libraryLookup(LIBRARY, Arena.global());
    } catch (IllegalArgumentException notThere) {
      return Optional.empty();
    }
    return Optional.of(new CudaDriver(library));
  }

  private MethodHandle required(String name, FunctionDescriptor type) {
    MethodHandle handle = optional(name, type);
    if (handle == null) {
      throw new UnsatisfiedLinkError(LIBRARY + " has no function " + name);
    }
    return handle;
  }

  private @Nullable MethodHandle optional(String name, FunctionDescriptor type) {
    return library
        .find(name)
        .map(symbol -> Linker.nativeLinker().downcallHandle(symbol, type))
        .orElse(null);
  }

  /** Those of the given functions that this driver does not have. */
  public List<String> missing(List<String> symbols) {
    List<String> missing = new ArrayList<>(symbols);
    missing.removeIf(name -> library.find(name).isPresent());
    return missing;
  }

  /** Whether {@code cuMemcpyBatchAsync} (CUDA 12.8) is there. */
  public boolean hasBatchV1() {
    return batchV1 != null;
  }

  /** Whether {@code cuMemcpyBatchAsync_v2} (CUDA 13.0) is there. */
  public boolean hasBatchV2() {
    return batchV2 != null;
  }

  /** The symbolic name of a {@code CUresult}. */
  public String errorName(int code) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(ADDRESS);
      int result = (int) getErrorName.invokeExact(code, out);
      MemorySegment name = out.get(ADDRESS, 0);
      return result == SUCCESS && name.address() != 0
          ? name.reinterpret(128).getString(0)
          : "CUresult";
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /**
   * {@code cuDeviceGetUuid_v2} (CUDA 11.4): what names a device of this process, of a GPU that is
   * parted (MIG) the instance that it sees and not the whole. Needs no context.
   *
   * @param ordinal of the device in this process
   * @return 16 bytes, empty where the driver lacks the call
   */
  public Optional<byte[]> uuid(int ordinal) throws CudaCallException {
    MethodHandle function = deviceUuid;
    if (function == null) {
      return Optional.empty();
    }
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment number = arena.allocate(JAVA_INT);
      check((int) device.invokeExact(number, ordinal), "cuDeviceGet(%d)".formatted(ordinal));
      MemorySegment uuid = arena.allocate(UUID_BYTES);
      int code = (int) function.invokeExact(uuid, number.get(JAVA_INT, 0));
      check(code, "cuDeviceGetUuid_v2(%d)".formatted(ordinal));
      return Optional.of(uuid.toArray(JAVA_BYTE));
    } catch (CudaCallException e) {
      throw e;
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  private void check(int code, String call) throws CudaCallException {
    if (code != SUCCESS) {
      throw new CudaCallException(call, code, errorName(code));
    }
  }

  private static MemorySegment handle(byte[] bytes, Arena arena) {
    if (bytes.length != IPC_HANDLE_BYTES) {
      throw new IllegalArgumentException(
          "IPC handle of " + bytes.length + " bytes, wanted " + IPC_HANDLE_BYTES);
    }
    return arena.allocate(HANDLE).copyFrom(MemorySegment.ofArray(bytes));
  }

  /**
   * How often this process mapped or unmapped memory through this object: host memory, or what
   * another process allocated. Any thread.
   */
  public long mappings() {
    return mappings.get();
  }

  /** {@code cuIpcOpenMemHandle}: the address here of another process's allocation. */
  public long openMemory(byte[] ipcHandle) throws CudaCallException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(JAVA_LONG);
      int code = (int) openMemory.invokeExact(out, handle(ipcHandle, arena), LAZY_PEER_ACCESS);
      mappings.incrementAndGet();
      check(code, "cuIpcOpenMemHandle");
      return out.get(JAVA_LONG, 0);
    } catch (CudaCallException e) {
      throw e;
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuIpcCloseMemHandle}. */
  public void closeMemory(long address) throws CudaCallException {
    int code;
    try {
      code = (int) closeMemory.invokeExact(address);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    mappings.incrementAndGet();
    check(code, "cuIpcCloseMemHandle(0x%x)".formatted(address));
  }

  /** {@code cuIpcOpenEventHandle}: another process's event. */
  public long openEvent(byte[] ipcHandle) throws CudaCallException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(JAVA_LONG);
      int code = (int) openEvent.invokeExact(out, handle(ipcHandle, arena));
      mappings.incrementAndGet();
      check(code, "cuIpcOpenEventHandle");
      return out.get(JAVA_LONG, 0);
    } catch (CudaCallException e) {
      throw e;
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuEventQuery}: {@link #SUCCESS}, {@link #NOT_READY} or an error. */
  public int queryEvent(long event) {
    try {
      return (int) queryEvent.invokeExact(event);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuStreamQuery}: {@link #SUCCESS} if all has ended, {@link #NOT_READY} or an error. */
  public int queryStream(long stream) {
    try {
      return (int) queryStream.invokeExact(stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuEventDestroy}. */
  public void destroyEvent(long event) throws CudaCallException {
    int code;
    try {
      code = (int) destroyEvent.invokeExact(event);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    mappings.incrementAndGet();
    check(code, "cuEventDestroy(0x%x)".formatted(event));
  }

  /**
   * {@code cuMemGetAddressRange}: how many bytes of the allocation lie at and behind an address in
   * it.
   */
  public long bytesFrom(long address) throws CudaCallException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment base = arena.allocate(JAVA_LONG);
      MemorySegment size = arena.allocate(JAVA_LONG);
      int code = (int) addressRange.invokeExact(base, size, address);
      check(code, "cuMemGetAddressRange(0x%x)".formatted(address));
      return base.get(JAVA_LONG, 0) + size.get(JAVA_LONG, 0) - address;
    } catch (CudaCallException e) {
      throw e;
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuMemHostRegister}, portable: pins host memory for every context of this process. */
  public void hostRegister(long address, long length) throws CudaCallException {
    int code;
    try {
      code = (int) hostRegister.invokeExact(address, length, HOST_REGISTER_PORTABLE);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    mappings.incrementAndGet();
    check(code, "cuMemHostRegister(0x%x, %d)".formatted(address, length));
  }

  /** {@code cuMemHostUnregister}. */
  public void hostUnregister(long address) throws CudaCallException {
    int code;
    try {
      code = (int) hostUnregister.invokeExact(address);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    mappings.incrementAndGet();
    check(code, "cuMemHostUnregister(0x%x)".formatted(address));
  }

  /** {@code cuMemcpyHtoDAsync}. From pageable memory the source has been read at return. */
  public int copyToDevice(long device, long host, long length, long stream) {
    try {
      return (int) copyToDevice.invokeExact(device, host, length, stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuMemcpyDtoHAsync}. To pageable memory the copy is complete at return. */
  public int copyToHost(long host, long device, long length, long stream) {
    try {
      return (int) copyToHost.invokeExact(host, device, length, stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /**
   * {@code cuMemcpyBatchAsync} of CUDA 12.8, with one attributes entry for all copies.
   *
   * @param destinations u64[count], as are {@code sources} and {@code lengths}
   * @param attributes one {@code CUmemcpyAttributes}
   * @param firstIndex u64[1] holding 0: the attributes hold from copy 0 on
   * @param failIndex u64[1], receives the number of the copy that failed
   */
  public int batchV1(
      MemorySegment destinations,
      MemorySegment sources,
      MemorySegment lengths,
      long count,
      MemorySegment attributes,
      MemorySegment firstIndex,
      MemorySegment failIndex,
      long stream) {
    MethodHandle function = present(batchV1, "cuMemcpyBatchAsync");
    try {
      return (int)
          function.invokeExact(
              destinations, sources, lengths, count, attributes, firstIndex, 1L, failIndex, stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuMemcpyBatchAsync_v2} of CUDA 13: {@link #batchV1} without the index of a failure. */
  public int batchV2(
      MemorySegment destinations,
      MemorySegment sources,
      MemorySegment lengths,
      long count,
      MemorySegment attributes,
      MemorySegment firstIndex,
      long stream) {
    MethodHandle function = present(batchV2, "cuMemcpyBatchAsync_v2");
    try {
      return (int)
          function.invokeExact(
              destinations, sources, lengths, count, attributes, firstIndex, 1L, stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** Whether {@code cuMemcpy3DBatchAsync} (CUDA 12.8) is there. */
  public boolean hasBatch3dV1() {
    return batch3dV1 != null;
  }

  /** Whether {@code cuMemcpy3DBatchAsync_v2} (CUDA 13.0) is there. */
  public boolean hasBatch3dV2() {
    return batch3dV2 != null;
  }

  /**
   * {@code cuMemcpy3DBatchAsync} of CUDA 12.8.
   *
   * @param ops {@code CUDA_MEMCPY3D_BATCH_OP[count]}
   * @param failIndex u64[1], receives the number of the copy that failed
   */
  public int batch3dV1(long count, MemorySegment ops, MemorySegment failIndex, long stream) {
    MethodHandle function = present(batch3dV1, "cuMemcpy3DBatchAsync");
    try {
      return (int) function.invokeExact(count, ops, failIndex, 0L, stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /** {@code cuMemcpy3DBatchAsync_v2} of CUDA 13: without the index of a failure. */
  public int batch3dV2(long count, MemorySegment ops, long stream) {
    MethodHandle function = present(batch3dV2, "cuMemcpy3DBatchAsync_v2");
    try {
      return (int) function.invokeExact(count, ops, 0L, stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  /**
   * {@code cuMemcpy2DAsync}.
   *
   * @param copy one {@code CUDA_MEMCPY2D}; has been read at return
   */
  public int copy2d(MemorySegment copy, long stream) {
    try {
      return (int) copy2d.invokeExact(copy, stream);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
  }

  private static MethodHandle present(@Nullable MethodHandle handle, String name) {
    if (handle == null) {
      throw new UnsupportedOperationException(LIBRARY + " has no function " + name);
    }
    return handle;
  }
}
