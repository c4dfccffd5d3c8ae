package io.flexkv.device;

import io.flexkv.ffm.CudaCallException;
import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;

/**
 * A rank's memory with streams that copy from and to one small range of host memory, which is
 * pinned as long as this is open. So a proof goes by the calls that jobs take later: batches and
 * strided copies need pinned memory. Where the driver pins nothing it goes copy by copy, as then
 * every job does.
 */
final class CudaScratch extends HostView {
  private static final System.Logger LOG = System.getLogger(CudaScratch.class.getName());

  private final CudaGpu gpu;
  private final CudaCopyPath path;
  private final PinnedRanges range;

  /** Memory that the driver would not unpin: it must not be anybody else's. */
  private static final Queue<MemorySegment> KEPT = new ConcurrentLinkedQueue<>();

  private final MemorySegment host;
  private final List<Long> pieces = new ArrayList<>();

  private CudaScratch(DeviceMemory memory, CudaGpu gpu, CudaCopyPath path, MemorySegment host) {
    super(memory);
    this.gpu = gpu;
    this.path = path;
    this.host = host;
    this.range = new PinnedRanges(List.of(host));
  }

  static CudaScratch open(DeviceMemory memory, CudaGpu gpu, CudaCopyPath path, MemorySegment host)
      throws DeviceException {
    CudaScratch scratch = new CudaScratch(memory, gpu, path, host);
    gpu.makeCurrent();
    scratch.pin(host);
    return scratch;
  }

  private void pin(MemorySegment host) {
    try {
      for (long at = 0; at < host.byteSize(); at += PinnedRanges.PIECE_BYTES) {
        long length = Math.min(PinnedRanges.PIECE_BYTES, host.byteSize() - at);
        gpu.pin(host.address() + at, length);
        pieces.add(host.address() + at);
        range.pinnedUpTo(0, at + length);
      }
    } catch (CudaCallException e) {
      LOG.log(
          Level.DEBUG, "{0} bytes of scratch stay pageable: {1}", host.byteSize(), e.getMessage());
    }
  }

  @Override
  public CopyStream openStream(Direction direction) throws DeviceException {
    return new CudaCopyStream(gpu, path, direction, range);
  }

  /** Unpins; the rank's memory stays open. */
  @Override
  public void close() {
    try {
      gpu.makeCurrent();
      for (long piece : pieces) {
        gpu.driver().hostUnregister(piece);
      }
    } catch (CudaCallException | DeviceException e) {
      KEPT.add(host);
      LOG.log(Level.WARNING, "scratch memory stays pinned: {0}", e.getMessage());
    }
    pieces.clear();
  }
}
