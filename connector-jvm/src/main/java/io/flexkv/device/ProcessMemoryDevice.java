package io.flexkv.device;

import io.flexkv.ffm.Errno;
import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.PidFd;
import java.io.IOException;
import java.util.List;

/**
 * The memory of a CPU engine: another process's, by {@code process_vm_readv} and {@code
 * process_vm_writev}.
 *
 * <p>Those calls take a pid, and pids are recycled. So the process is opened as a pidfd whose start
 * time is compared with the registered one, and asked before and after every call whether it is
 * alive: a call between two positive answers went to the right process. What remains is the time
 * between the first answer and the kernel's look-up of the pid, within which the process would have
 * to end, be reaped, and its number come round again.
 */
public final class ProcessMemoryDevice implements DeviceMemory {
  private final RankLayout layout;
  private final int pid;
  private final long startTimeTicks;

  private ProcessMemoryDevice(RankLayout layout, int pid, long startTimeTicks) {
    this.layout = layout;
    this.pid = pid;
    this.startTimeTicks = startTimeTicks;
  }

  /**
   * Opens.
   *
   * @param layout all of whose allocations are memory of one and the same process
   * @throws DeviceException UNSUPPORTED: another kind of handle; GONE: the process has ended, even
   *     if its pid is in use again
   */
  public static ProcessMemoryDevice open(RankLayout layout) throws DeviceException {
    if (!(layout.allocations().getFirst() instanceof AllocationHandle.ProcessMemory first)) {
      throw unsupported(layout.allocations().getFirst());
    }
    for (AllocationHandle handle : layout.allocations()) {
      if (!(handle instanceof AllocationHandle.ProcessMemory memory)) {
        throw unsupported(handle);
      }
      if (memory.pid() != first.pid() || memory.startTimeTicks() != first.startTimeTicks()) {
        throw DeviceException.layout(
            "allocations of two processes: pid %d started %d, pid %d started %d",
            first.pid(), first.startTimeTicks(), memory.pid(), memory.startTimeTicks());
      }
    }
    openProcess(first.pid(), first.startTimeTicks()).close(); // it is there, and the one meant
    return new ProcessMemoryDevice(layout, first.pid(), first.startTimeTicks());
  }

  private static DeviceException unsupported(AllocationHandle handle) {
    return new DeviceException(
        DeviceException.Kind.UNSUPPORTED,
        "process backend: allocation of kind %s, wanted process".formatted(handle.kind()));
  }

  private static PidFd openProcess(int pid, long startTimeTicks) throws DeviceException {
    try {
      return PidFd.open(pid, startTimeTicks);
    } catch (ErrnoException e) {
      DeviceException.Kind kind =
          e.errno() == Errno.ESRCH ? DeviceException.Kind.GONE : DeviceException.Kind.UNSUPPORTED;
      throw new DeviceException(kind, "process backend: " + e.getMessage(), e);
    } catch (IOException e) {
      throw new DeviceException(
          DeviceException.Kind.GONE, "process backend: pid %d: %s".formatted(pid, e), e);
    }
  }

  @Override
  public RankLayout layout() {
    return layout;
  }

  @Override
  public long regionAddress(int region) {
    Region r = layout.regions().get(region);
    AllocationHandle handle = layout.allocations().get(r.allocation());
    return ((AllocationHandle.ProcessMemory) handle).address() + r.offset();
  }

  /** Each stream holds a pidfd of its own, so that no close of one can hit the other's calls. */
  @Override
  public CopyStream openStream(Direction direction) throws DeviceException {
    return new ProcessCopyStream(direction, openProcess(pid, startTimeTicks));
  }

  /** A CPU engine's "go" comes after the step's work is done: there are no events to ask. */
  @Override
  public FenceRing openFences(List<byte[]> handles, FenceRing.Seen onSeen) throws DeviceException {
    if (!handles.isEmpty()) {
      throw new DeviceException(
          DeviceException.Kind.UNSUPPORTED,
          "process backend: %d event handles, wanted none".formatted(handles.size()));
    }
    return FenceRing.none();
  }

  /** Only streams hold anything. */
  @Override
  public void close() {}
}
