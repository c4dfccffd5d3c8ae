package io.flexkv.device;

import io.flexkv.ffm.PidFd;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * A child process that owns memory, as a CPU engine does: Python maps a file for each allocation
 * and waits for the end of its stdin. The file lets the test look at the bytes without the calls
 * under test.
 */
public final class ProcessEngine implements EngineMemory {
  private static final String SCRIPT =
      """
      import ctypes, mmap, sys
      try:
          ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, any
      except OSError:
          pass
      maps = []
      for path in sys.argv[1:]:
          with open(path, 'r+b') as f:
              maps.append(mmap.mmap(f.fileno(), 0))
      print(*[ctypes.addressof(ctypes.c_char.from_buffer(m)) for m in maps], flush=True)
      sys.stdin.read()
      """;

  private final Process process;
  private final List<Path> files = new ArrayList<>();
  private final List<MappedByteBuffer> buffers = new ArrayList<>();
  private final List<AllocationHandle> allocations = new ArrayList<>();

  public ProcessEngine(long... allocationBytes) throws IOException {
    List<String> command = new ArrayList<>(List.of("python3", "-c", SCRIPT));
    for (long bytes : allocationBytes) {
      Path file = Files.createTempFile("flexkv-engine", ".mem");
      files.add(file);
      try (RandomAccessFile opened = new RandomAccessFile(file.toFile(), "rw")) {
        opened.setLength(bytes);
        buffers.add(opened.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, bytes));
      }
      command.add(file.toString());
    }
    process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    String line = process.inputReader().readLine();
    if (line == null) {
      throw new IOException("the child ended before it was ready");
    }
    String[] addresses = line.split(" ", -1);
    int pid = (int) process.pid();
    for (int i = 0; i < allocationBytes.length; i++) {
      allocations.add(
          new AllocationHandle.ProcessMemory(
              pid, PidFd.startTimeTicks(pid), Long.parseLong(addresses[i]), allocationBytes[i]));
    }
  }

  @Override
  public List<AllocationHandle> allocations() {
    return List.copyOf(allocations);
  }

  @Override
  public byte[] peek(int allocation, long offset, int length) {
    byte[] bytes = new byte[length];
    buffers.get(allocation).get((int) offset, bytes);
    return bytes;
  }

  @Override
  public void poke(int allocation, long offset, byte[] bytes) {
    buffers.get(allocation).put((int) offset, bytes);
  }

  @Override
  public DeviceMemory open(RankLayout layout) throws DeviceException {
    return ProcessMemoryDevice.open(layout);
  }

  @Override
  public void kill() {
    process.destroyForcibly();
    Process ended = process.onExit().join();
    if (ended.isAlive()) {
      throw new IllegalStateException("pid " + ended.pid() + " survived its kill");
    }
  }

  @Override
  public void close() throws IOException {
    kill();
    for (Path file : files) {
      Files.deleteIfExists(file);
    }
  }
}
