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

  /** 32 MiB are 0.6 ms at 55 GB/s; three of them are on their way in less than 2 ms. */
  private static final SliceLimits LIMITS = new SliceLimits(512, 32L << 20, 3);

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
  private final Event[] events = new Event[LIMITS.inFlight()];
  private long submitted;
  private long completed;
  private boolean lost;

  CudaCopyStream(CudaGpu gpu, CudaCopyPath path, Direction direction, PinnedRanges pool)
      throws DeviceException {
    this.gpu = gpu;
    this.driver = gpu.driver();
    // Copies of one slice add up to at most one piece, so each slice is cut at most that often.
    this.batch = new CudaBatch(driver, path, direction, pool, 2 * LIMITS.copies() + 2);
    gpu.makeCurrent();
    CudaLibrary.check(
        driver, JCudaDriver.cuStreamCreate(stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    for (int i = 0; i < events.length; i++) {
      events[i] = new Event();
      CudaLibrary.check(
          driver, JCudaDriver.cuEventCreate(events[i], CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    }
  }

  @Override
  public SliceLimits limits() {
    return LIMITS;
  }

  @Override
  public void submit(CopySlice slice) throws DeviceException {
    if (submitted - completed == events.length) {
      throw new IllegalStateException("cuda stream: " + events.length + " slices are on their way");
    }
    gpu.makeCurrent();
    batch.fill(slice);
    int code = batch.submit(stream.address());
    if (code != CudaDriver.SUCCESS
        && batch.batched()
        && CudaLibrary.kind(code) == DeviceException.Kind.COPY) {
      code = submitWithoutBatch(code);
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
    gpu.slicesInFlight().incrementAndGet();
  }

  /** A driver that refuses batches is slower, not useless: the same copies one by one. */
  private int submitWithoutBatch(int refusal) {
    LOG.log(
        Level.WARNING,
        "no batched copies on this stream from now on: {0}",
        CudaLibrary.failure(driver, refusal, "cuMemcpyBatchAsync").getMessage());
    batch.giveUpBatches();
    int code = JCudaDriver.cuStreamSynchronize(stream);
    return code == CudaDriver.SUCCESS ? batch.submit(stream.address()) : code;
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
      gpu.slicesInFlight().decrementAndGet();
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
      for (Event event : events) {
        note(JCudaDriver.cuEventDestroy(event), "cuEventDestroy");
      }
      note(JCudaDriver.cuStreamDestroy(stream), "cuStreamDestroy");
    } catch (DeviceException e) {
      LOG.log(Level.WARNING, "closing a stream: {0}", e.getMessage());
    } finally {
      gpu.slicesInFlight().addAndGet((int) (completed - submitted));
      completed = submitted;
    }
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
