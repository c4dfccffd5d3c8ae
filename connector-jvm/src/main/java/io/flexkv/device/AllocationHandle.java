package io.flexkv.device;

import java.util.List;
import java.util.Locale;

/**
 * How one allocation of the engine can be reached: a tagged union, one record a kind. Each distinct
 * allocation of a rank is named once; regions point into it.
 */
public sealed interface AllocationHandle {
  /** Bytes of the allocation that regions may use. */
  long length();

  /** The word for it in registrations, errors and logs. */
  String kind();

  /**
   * Plain memory of a process.
   *
   * @param startTimeTicks when the process started, field 22 of {@code /proc/<pid>/stat}: with the
   *     pid it names one process for ever
   * @param address its virtual address there
   */
  record ProcessMemory(int pid, long startTimeTicks, long address, long length)
      implements AllocationHandle {
    @Override
    public String kind() {
      return "process";
    }
  }

  /**
   * CUDA memory by legacy IPC ({@code cuIpcGetMemHandle}).
   *
   * @param handle the {@code CUipcMemHandle} of the base of the whole allocation, 128 hex digits
   * @param offset where the bytes meant begin, from that base
   * @param gpuUuid {@code GPU-xxxxxxxx-…}, because indices depend on CUDA_VISIBLE_DEVICES
   */
  record CudaIpc(String handle, long offset, long length, String gpuUuid)
      implements AllocationHandle {
    /** The GPU it lies on, spelled as {@link #normalized} does. */
    public String gpu() {
      return normalized(gpuUuid);
    }

    /** {@code GPU-0f3c…-…} and torch's form without the prefix are the same 32 hex digits. */
    static String normalized(String uuid) {
      String text = uuid.toLowerCase(Locale.ROOT);
      for (String prefix : List.of("gpu-", "mig-")) {
        if (text.startsWith(prefix)) {
          text = text.substring(prefix.length());
        }
      }
      return text.replace("-", "");
    }

    @Override
    public String kind() {
      return "cuda_ipc";
    }
  }

  /** CUDA virtual memory exported as a file descriptor; named in the format, not served yet. */
  record PosixFd(int fd, long length, String gpuUuid) implements AllocationHandle {
    @Override
    public String kind() {
      return "posix_fd";
    }
  }

  /** Memory of a CPU engine that lies in a shared file; named in the format, not served yet. */
  record MemFd(int fd, long offset, long length) implements AllocationHandle {
    @Override
    public String kind() {
      return "memfd";
    }
  }
}
