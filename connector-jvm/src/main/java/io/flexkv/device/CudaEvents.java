package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import io.flexkv.ffm.CudaDriver;
import java.lang.System.Logger.Level;
import java.util.List;

/** The interprocess events of one worker, opened here and asked by {@code cuEventQuery}. */
final class CudaEvents implements FenceRing.Query {
  private static final System.Logger LOG = System.getLogger(CudaEvents.class.getName());

  private final CudaGpu gpu;
  private final long[] events;

  private CudaEvents(CudaGpu gpu, long[] events) {
    this.gpu = gpu;
    this.events = events;
  }

  static CudaEvents open(CudaGpu gpu, List<byte[]> handles) throws DeviceException {
    gpu.makeCurrent();
    CudaEvents opened = new CudaEvents(gpu, new long[handles.size()]);
    for (int i = 0; i < handles.size(); i++) {
      byte[] handle = handles.get(i);
      try {
        if (handle.length != CudaDriver.IPC_HANDLE_BYTES) {
          throw DeviceException.layout(
              "event %d: handle of %d bytes, wanted %d",
              i, handle.length, CudaDriver.IPC_HANDLE_BYTES);
        }
        opened.events[i] = gpu.driver().openEvent(handle);
      } catch (CudaCallException e) {
        opened.close();
        throw gpu.failure(
            e,
            "event %d must be made with interprocess=True by another living process".formatted(i));
      } catch (DeviceException e) {
        opened.close();
        throw e;
      }
    }
    return opened;
  }

  @Override
  public boolean complete(int index) throws DeviceException {
    gpu.makeCurrent();
    int code = gpu.driver().queryEvent(events[index]);
    if (code == CudaDriver.NOT_READY) {
      return false;
    }
    CudaLibrary.check(gpu.driver(), code, "cuEventQuery of fence " + index);
    return true;
  }

  @Override
  public void close() {
    for (int i = 0; i < events.length; i++) {
      if (events[i] != 0) {
        try {
          gpu.makeCurrent();
          gpu.driver().destroyEvent(events[i]);
        } catch (CudaCallException | DeviceException e) {
          LOG.log(Level.DEBUG, "closing fence {0}: {1}", i, e.getMessage());
        }
        events[i] = 0;
      }
    }
  }
}
