package io.flexkv.device;

/**
 * Copies in one direction, in order. Owned by one thread; no call waits for the device, except
 * where the device has no other way (the {@code process} backend copies inside {@link #submit}).
 */
public interface CopyStream extends AutoCloseable {
  /** What a slice may hold. */
  SliceLimits limits();

  /**
   * Starts the copies of a slice, which keeps to {@link #limits}; it may be reused at once.
   * Addresses are not checked here: whoever fills slices gets them from {@link
   * DeviceMemory#regionAddress} and a checked layout.
   *
   * @throws DeviceException nothing of this slice is on its way any more (some of it may have been
   *     copied) and it does not count as submitted. COPY: later slices may work; GONE: none will
   */
  void submit(CopySlice slice) throws DeviceException;

  /**
   * How many slices have ended since the stream was opened; slices end in the order of submission.
   * What an ended slice copied is visible to this thread.
   *
   * @throws DeviceException GONE: the device is lost, and nothing submitted touches memory any more
   */
  long completed() throws DeviceException;

  /**
   * Closes. Every submitted slice must have ended, or {@link #completed} have thrown; otherwise
   * this waits for the device.
   */
  @Override
  void close();
}
