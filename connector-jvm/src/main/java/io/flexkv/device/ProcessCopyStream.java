package io.flexkv.device;

import io.flexkv.ffm.Errno;
import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.PidFd;
import io.flexkv.ffm.ProcessVm;

/**
 * Copies of the process backend: done when {@link #submit} returns, at most {@value
 * ProcessVm#MAX_FRAGMENTS} fragments a system call.
 */
final class ProcessCopyStream implements CopyStream {
  /** About 1 ms at 4 GB/s. */
  private static final SliceLimits LIMITS = new SliceLimits(ProcessVm.MAX_FRAGMENTS, 4L << 20, 1);

  /** The system call, apart so that a test can make it copy less than asked. */
  interface Call {
    long copy(ProcessVm vm, int pid) throws ErrnoException;
  }

  private final Direction direction;
  private final PidFd process;
  private final Call call;
  private final ProcessVm vm = new ProcessVm();
  private long completed;

  ProcessCopyStream(Direction direction, PidFd process) {
    this(direction, process, direction == Direction.LOAD ? ProcessVm::write : ProcessVm::read);
  }

  ProcessCopyStream(Direction direction, PidFd process, Call call) {
    this.direction = direction;
    this.process = process;
    this.call = call;
  }

  @Override
  public SliceLimits limits() {
    return LIMITS;
  }

  @Override
  public void submit(CopySlice slice) throws DeviceException {
    int copy = 0;
    long row = 0;
    long done = 0; // bytes of that row that an earlier call copied
    requireAlive();
    while (copy < slice.count()) {
      gather(slice, copy, row, done);
      long copied = transfer();
      requireAlive();
      if (copied == 0) {
        throw new DeviceException(
            DeviceException.Kind.COPY,
            "process backend: %s copied nothing at 0x%x of pid %d"
                .formatted(
                    direction,
                    slice.deviceAddress(copy) + row * slice.devicePitch(copy) + done,
                    process.pid()));
      }
      // The kernel stops at the first page it cannot reach: go on there and hear why.
      copied += done;
      while (copy < slice.count() && copied >= slice.width(copy)) {
        copied -= slice.width(copy);
        if (++row == slice.rows(copy)) {
          row = 0;
          copy++;
        }
      }
      done = copied;
    }
    completed++;
  }

  /** As many rows as one call takes, from the given one on. */
  private void gather(CopySlice slice, int copy, long row, long skip) {
    vm.clear();
    while (copy < slice.count() && vm.count() < ProcessVm.MAX_FRAGMENTS) {
      vm.add(
          slice.hostAddress(copy) + row * slice.hostPitch(copy) + skip,
          slice.deviceAddress(copy) + row * slice.devicePitch(copy) + skip,
          slice.width(copy) - skip);
      skip = 0;
      if (++row == slice.rows(copy)) {
        row = 0;
        copy++;
      }
    }
  }

  private long transfer() throws DeviceException {
    try {
      return call.copy(vm, process.pid());
    } catch (ErrnoException e) {
      boolean gone = e.errno() == Errno.ESRCH;
      throw new DeviceException(
          gone ? DeviceException.Kind.GONE : DeviceException.Kind.COPY,
          "process backend: " + e.getMessage() + remedy(e.errno()),
          e);
    }
  }

  private static String remedy(int errno) {
    return errno == Errno.EPERM
        ? "; the sidecar needs the engine's uid and, with ptrace_scope=1, its PR_SET_PTRACER"
        : "";
  }

  private void requireAlive() throws DeviceException {
    boolean alive;
    try {
      alive = process.alive();
    } catch (ErrnoException e) {
      throw new DeviceException(DeviceException.Kind.GONE, "process backend: " + e.getMessage(), e);
    }
    if (!alive) {
      throw new DeviceException(
          DeviceException.Kind.GONE,
          "process backend: process %d has ended".formatted(process.pid()));
    }
  }

  @Override
  public long completed() {
    return completed;
  }

  @Override
  public void close() {
    process.close();
  }
}
