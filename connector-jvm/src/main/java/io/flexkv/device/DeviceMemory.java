package io.flexkv.device;

import java.lang.foreign.MemorySegment;
import java.util.List;

/**
 * The only door to the memory of one engine rank. Opened from a checked layout; nothing else in the
 * sidecar dereferences an engine address.
 *
 * <p>Threads: any. A stream that was opened is handed to the thread that owns it from then on;
 * {@link #close} after the streams are closed.
 */
public interface DeviceMemory extends AutoCloseable {
  /** What was registered. */
  RankLayout layout();

  /**
   * Address of block 0 of a region in the terms of this backend's streams; block b follows at b
   * times the region's stride.
   */
  long regionAddress(int region);

  /** Opens the stream of one direction. */
  CopyStream openStream(Direction direction) throws DeviceException;

  /**
   * Opens the worker's events.
   *
   * @param handles one for each event, in the backend's format (CUDA: 64 bytes of {@code
   *     CUipcEventHandle})
   */
  FenceRing openFences(List<byte[]> handles, FenceRing.Seen onSeen) throws DeviceException;

  /**
   * The same memory for copies from and to {@code host} alone, which is no part of the pool, by the
   * calls that move the pool. Its streams are closed first, then it, then this; closing it closes
   * nothing of this.
   *
   * @param host stays mapped until it is closed
   */
  default DeviceMemory withHost(MemorySegment host) throws DeviceException {
    return new HostView(this);
  }

  @Override
  void close();
}
