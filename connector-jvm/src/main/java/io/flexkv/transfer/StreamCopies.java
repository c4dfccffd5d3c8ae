package io.flexkv.transfer;

import io.flexkv.device.CopySlice;
import io.flexkv.device.CopyStream;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Direction;
import io.flexkv.device.SliceLimits;
import java.util.ArrayDeque;

/**
 * The slices of a {@link Mover} without one: the calling thread fills them, submits them and asks
 * for their ends. What a mover does beyond this is its own; what this does beyond the bare program
 * is the slicing and Java. One thread.
 */
final class StreamCopies implements AutoCloseable {
  private static final long TIMEOUT_NANOS = 60_000_000_000L;

  private final Direction direction;
  private final Geometry geometry;
  private final CopyStream stream;
  private final CopySlice slice;
  private final boolean patient;
  private final long most;
  private long slicesSeen;

  /**
   * What one pass took.
   *
   * @param submitNanos of it within the driver's calls
   * @param copies handed to the driver
   */
  record Pass(long bytes, long nanos, long submitNanos, long copies) {
    double gigabytesPerSecond() {
      return (double) bytes / nanos;
    }

    double microsPerCopy() {
      return submitNanos / 1e3 / copies;
    }
  }

  /**
   * @param patient asks for ends only where there is no room for another slice
   * @param most bytes of a slice, where the stream takes as many
   */
  StreamCopies(DeviceMemory memory, Direction direction, boolean patient, long most)
      throws DeviceException {
    this.patient = patient;
    this.most = most;
    this.direction = direction;
    this.geometry = new Geometry(memory);
    this.stream = memory.openStream(direction);
    this.slice = new CopySlice(stream.limits().copies());
  }

  /** Copies blocks and waits for them. */
  Pass copy(MoverDriver.Blocks blocks) throws DeviceException {
    SliceLimits limits = stream.limits();
    long begin = System.nanoTime();
    JobState state =
        new JobState(
            new TransferJob(
                1,
                0,
                direction,
                blocks.blocks(),
                blocks.hosts(),
                null,
                RevokeWord.NONE,
                begin + TIMEOUT_NANOS,
                null),
            begin);
    ArrayDeque<Long> onTheirWay = new ArrayDeque<>();
    long bytesOnTheirWay = 0;
    long bytes = 0;
    long submitNanos = 0;
    long copies = 0;
    while (!state.allSubmitted() || !onTheirWay.isEmpty()) {
      boolean room =
          !state.allSubmitted()
              && onTheirWay.size() < limits.inFlight()
              && bytesOnTheirWay < limits.bytesInFlight();
      if (!room || !patient) {
        for (long ended = stream.completed(); slicesSeen < ended; slicesSeen++) {
          bytesOnTheirWay -= onTheirWay.remove();
        }
      }
      if (room) {
        slice.clear();
        geometry.fill(slice, state, limits, Math.min(most, limits.bytesOfNext(bytesOnTheirWay)));
        long before = System.nanoTime();
        stream.submit(slice);
        submitNanos += System.nanoTime() - before;
        copies += slice.count();
        bytes += slice.bytes();
        bytesOnTheirWay += slice.bytes();
        onTheirWay.add(slice.bytes());
      } else if (System.nanoTime() - begin > TIMEOUT_NANOS) {
        throw new DeviceException(DeviceException.Kind.COPY, "bench: slices did not end in time");
      }
    }
    return new Pass(bytes, System.nanoTime() - begin, submitNanos, copies);
  }

  @Override
  public void close() {
    stream.close();
  }
}
