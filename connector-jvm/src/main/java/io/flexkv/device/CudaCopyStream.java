package io.flexkv.device;

import io.flexkv.ffm.CudaDriver;
import java.lang.System.Logger.Level;
import jcuda.driver.CUevent;
import jcuda.driver.CUstream;
import jcuda.driver.JCudaDriver;

/**
 * Copies of one direction on one non-blocking stream; the end of each slice is an event that is
 * polled. Several streams in one direction would ruin small copies (measured), so there is one.
 */
final class CudaCopyStream implements CopyStream {
  private static final System.Logger LOG = System.getLogger(CudaCopyStream.class.getName());

  private static final int COPIES = 512;
  private static final int SLICES_IN_FLIGHT = 16;

  /**
   * 96 MiB are 1.8 ms at 55 GB/s; what moves more slowly the agent bounds by its time. The link
   * goes on while this thread looks and submits, also where the end of a slice shows only with that
   * of the next (strided copies). The first slice of a job is short: 512 copies take the driver 0.2
   * ms.
   */
  private static final long SLICE_BYTES = 16L << 20;

  private static final long FIRST_SLICE_BYTES = 1L << 20;
  private static final long BYTES_IN_FLIGHT = 96L << 20;

  /**
   * Wider rows go as fast one by one, or faster (measured). So do loads of 32 KiB, but only while
   * the driver has a core for itself.
   */
  private static final long STRIDED_UP_TO = 32L << 10;

  private static final int CU_STREAM_NON_BLOCKING = 1;
  private static final int CU_EVENT_DISABLE_TIMING = 2;

  /** JCuda keeps a handle's value to subclasses. */
  private static final class Stream extends CUstream {
    long address() {
      return getNativePointer();
    }
  }

  private static final class Event extends CUevent {
    long address() {
      return getNativePointer();
    }
  }

  private final CudaGpu gpu;
  private final CudaDriver driver;
  private final CudaBatch batch;
  private final Stream stream = new Stream();
  private final SliceLimits limits;
  private final Event[] events = new Event[SLICES_IN_FLIGHT];
  private long submitted;
  private long completed;
  private boolean lost;
  private boolean saidOnce;

  CudaCopyStream(CudaGpu gpu, CudaCopyPath path, Direction direction, PinnedRanges pool)
      throws DeviceException {
    this.gpu = gpu;
    this.driver = gpu.driver();
    this.limits =
        new SliceLimits(
            COPIES,
            SLICE_BYTES,
            FIRST_SLICE_BYTES,
            SLICES_IN_FLIGHT,
            BYTES_IN_FLIGHT,
            STRIDED_UP_TO);
    gpu.makeCurrent();
    CudaLead lead = direction == Direction.LOAD ? gpu.lead() : null;
    this.batch = new CudaBatch(driver, path, direction, pool, COPIES, lead);
    int made = JCudaDriver.cuStreamCreate(stream, CU_STREAM_NON_BLOCKING);
    if (made != CudaDriver.SUCCESS) {
      throw CudaLibrary.notMade(driver, made, "cuStreamCreate");
    }
    for (int i = 0; i < events.length; i++) {
      Event event = new Event();
      int code = JCudaDriver.cuEventCreate(event, CU_EVENT_DISABLE_TIMING);
      if (code != CudaDriver.SUCCESS) {
        destroy(i);
        throw CudaLibrary.notMade(driver, code, "cuEventCreate");
      }
      events[i] = event;
    }
  }

  @Override
  public SliceLimits limits() {
    return limits;
  }

  @Override
  public void submit(CopySlice slice) throws DeviceException {
    if (submitted - completed == events.length) {
      throw new IllegalStateException("cuda stream: " + events.length + " slices are on their way");
    }
    gpu.makeCurrent();
    int code = batch.submit(slice, stream.address(), submitted == completed);
    if (code != CudaDriver.SUCCESS) {
      code = submitSimply(slice, code);
    }
    if (code == CudaDriver.SUCCESS) {
      code = JCudaDriver.cuEventRecord(events[(int) (submitted % events.length)], stream);
    }
    if (code != CudaDriver.SUCCESS) {
      DeviceException failure =
          CudaLibrary.failure(
              driver, code, "copy of %d bytes in %d".formatted(slice.bytes(), slice.count()));
      drainAfter(failure);
      throw failure;
    }
    submitted++;
    gpu.traffic().submitted();
  }

  /** A driver that refuses batches is slower, not useless: the same copies by simpler calls. */
  private int submitSimply(CopySlice slice, int failure) {
    int code = failure;
    while (code != CudaDriver.SUCCESS
        && CudaLibrary.kind(code) == DeviceException.Kind.COPY
        && batch.simplify(CudaLibrary.refuses(code))) {
      code = submitAgain(slice, code);
    }
    batch.simplifyNoMore();
    return code;
  }

  private int submitAgain(CopySlice slice, int failure) {
    if (CudaLibrary.refuses(failure) || !saidOnce) {
      saidOnce = true;
      LOG.log(
          Level.WARNING,
          "simpler copies on this stream{0}: {1}",
          CudaLibrary.refuses(failure) ? " from now on" : ", now and whenever it comes to this",
          CudaLibrary.failure(driver, failure, "a batched or strided copy").getMessage());
    }
    int code = JCudaDriver.cuStreamSynchronize(stream);
    return code == CudaDriver.SUCCESS ? batch.submit(slice, stream.address(), false) : code;
  }

  /** A part of the failed slice may be on its way: nobody is told before it has ended. */
  private void drainAfter(DeviceException failure) {
    int code = JCudaDriver.cuStreamSynchronize(stream);
    if (code != CudaDriver.SUCCESS) {
      lost = true;
      failure.addSuppressed(CudaLibrary.failure(driver, code, "cuStreamSynchronize"));
    }
  }

  @Override
  public long completed() throws DeviceException {
    gpu.makeCurrent();
    while (completed < submitted) {
      int code = driver.queryEvent(events[(int) (completed % events.length)].address());
      if (code == CudaDriver.NOT_READY) {
        return completed;
      }
      if (code != CudaDriver.SUCCESS) {
        lost = true;
        throw new DeviceException(
            DeviceException.Kind.GONE,
            CudaLibrary.failure(driver, code, "the end of a slice").getMessage());
      }
      completed++;
      gpu.traffic().ended(1);
    }
    return completed;
  }

  @Override
  public void close() {
    try {
      gpu.makeCurrent();
      if (!lost) {
        note(JCudaDriver.cuStreamSynchronize(stream), "cuStreamSynchronize");
      }
      destroy(events.length);
    } catch (DeviceException e) {
      LOG.log(Level.WARNING, "closing a stream: {0}", e.getMessage());
    } finally {
      gpu.traffic().ended((int) (submitted - completed));
      completed = submitted;
    }
  }

  private void destroy(int made) {
    for (int i = 0; i < made; i++) {
      note(JCudaDriver.cuEventDestroy(events[i]), "cuEventDestroy");
    }
    note(JCudaDriver.cuStreamDestroy(stream), "cuStreamDestroy");
  }

  private void note(int code, String call) {
    if (code != CudaDriver.SUCCESS) {
      LOG.log(
          Level.WARNING,
          "closing a stream: {0}",
          CudaLibrary.failure(driver, code, call).getMessage());
    }
  }
}
