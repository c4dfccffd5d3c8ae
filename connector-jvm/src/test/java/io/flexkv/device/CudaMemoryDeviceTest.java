package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.InstanceOfAssertFactories.type;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Objects;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The contract on a GPU: run by {@code -Dflexkv.test.cuda=true} where there is one. */
final class CudaMemoryDeviceTest extends DeviceMemoryContract {
  @BeforeEach
  void onlyWithAGpu() {
    assumeTrue(
        Boolean.getBoolean("flexkv.test.cuda"),
        "needs a GPU; where there is one, run with -Dflexkv.test.cuda=true");
  }

  @Override
  EngineMemory engine(long... allocationBytes) throws Exception {
    return new CudaEngine(allocationBytes);
  }

  /** The driver tells nobody of the exporter's end; the session that registered it knows. */
  @Override
  @Test
  void submit_ownerHasEnded_failsAsGoneNotHangs() throws Exception {
    try (EngineMemory engine = engine(64 << 10)) {
      RankLayout layout =
          RankLayout.of(engine.allocations(), List.of(new Region(0, 0, 1024, 1024, 64)), "test");
      try (DeviceMemory device = engine.open(layout);
          CopyStream stream = device.openStream(Direction.LOAD)) {
        engine.kill();
        CopySlice slice = new CopySlice(4);
        slice.add(device.regionAddress(0), arena.allocate(1024, 8).address(), 1024);
        stream.submit(slice);
        long deadline = System.nanoTime() + 10_000_000_000L;
        while (stream.completed() == 0) {
          assertThat(System.nanoTime()).as("ends, one way or the other").isLessThan(deadline);
          Thread.onSpinWait();
        }
      } catch (DeviceException e) {
        assertThat(e.kind()).isEqualTo(DeviceException.Kind.GONE);
      }
    }
  }

  @Test
  void open_handleThatNobodyExported_refusedWithTheRemedy() throws Exception {
    try (CudaEngine engine = new CudaEngine(4096)) {
      AllocationHandle.CudaIpc real = (AllocationHandle.CudaIpc) engine.allocations().getFirst();
      RankLayout layout =
          RankLayout.of(
              List.of(new AllocationHandle.CudaIpc("7f".repeat(64), 0, 4096, real.gpuUuid())),
              List.of(new Region(0, 0, 4096, 4096, 1)),
              "test");
      assertThatThrownBy(() -> engine.open(layout))
          .hasMessageContaining("cuIpcOpenMemHandle failed")
          .hasMessageContaining("must be of another living process")
          .asInstanceOf(type(DeviceException.class))
          .extracting(DeviceException::kind)
          .as("the context works: no reason for another sidecar")
          .isEqualTo(DeviceException.Kind.UNSUPPORTED);
    }
  }

  @Test
  void open_lengthBeyondTheAllocation_refused() throws Exception {
    try (CudaEngine engine = new CudaEngine(4096)) {
      AllocationHandle.CudaIpc real = (AllocationHandle.CudaIpc) engine.allocations().getFirst();
      long length = 1L << 40;
      RankLayout layout =
          RankLayout.of(
              List.of(new AllocationHandle.CudaIpc(real.handle(), 0, length, real.gpuUuid())),
              List.of(new Region(0, 0, 4096, 4096, 1)),
              "test");
      assertThatThrownBy(() -> engine.open(layout))
          .isInstanceOf(DeviceException.class)
          .hasMessageContaining("end beyond its");
    }
  }

  @Test
  void open_gpuThatIsNotThere_refusedWithThoseThatAre() throws Exception {
    try (CudaEngine engine = new CudaEngine(4096)) {
      AllocationHandle.CudaIpc real = (AllocationHandle.CudaIpc) engine.allocations().getFirst();
      RankLayout layout =
          RankLayout.of(
              List.of(new AllocationHandle.CudaIpc(real.handle(), 0, 4096, "GPU-00")),
              List.of(new Region(0, 0, 4096, 4096, 1)),
              "test");
      assertThatThrownBy(() -> engine.open(layout))
          .isInstanceOf(DeviceException.class)
          .hasMessageContaining("GPU-00 is not visible")
          .hasMessageContaining(real.gpu());
    }
  }

  /** A Python child with GPU memory. */
  private static final class CudaEngine implements EngineMemory {
    private final Process process;
    private final BufferedReader answers;
    private final Writer commands;
    private final List<AllocationHandle> allocations = new ArrayList<>();
    private final Devices devices = new Devices(List.of(), CudaCopyPath.AUTO);

    CudaEngine(long... allocationBytes) throws IOException {
      List<String> command = new ArrayList<>(List.of("python3", "-c", script()));
      for (long bytes : allocationBytes) {
        command.add(Long.toString(bytes));
      }
      process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
      answers = process.inputReader();
      commands = process.outputWriter();
      String[] words = answer().split(" ", -1);
      for (int i = 0; i < allocationBytes.length; i++) {
        allocations.add(
            new AllocationHandle.CudaIpc(words[i + 1], 0, allocationBytes[i], words[0]));
      }
    }

    private static String script() throws IOException {
      try (InputStream in = CudaMemoryDeviceTest.class.getResourceAsStream("cuda_engine.py")) {
        return new String(Objects.requireNonNull(in).readAllBytes(), StandardCharsets.UTF_8);
      }
    }

    private String answer() throws IOException {
      String line = answers.readLine();
      if (line == null) {
        throw new IOException("the child ended without an answer");
      }
      return line;
    }

    private String ask(String command) {
      try {
        commands.write(command + "\n");
        commands.flush();
        return answer();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }

    @Override
    public List<AllocationHandle> allocations() {
      return List.copyOf(allocations);
    }

    @Override
    public byte[] peek(int allocation, long offset, int length) {
      return HexFormat.of().parseHex(ask("peek %d %d %d".formatted(allocation, offset, length)));
    }

    @Override
    public void poke(int allocation, long offset, byte[] bytes) {
      String hex = HexFormat.of().formatHex(bytes);
      assertThat(ask("poke %d %d %s".formatted(allocation, offset, hex))).isEqualTo("done");
    }

    @Override
    public DeviceMemory open(RankLayout layout) throws DeviceException {
      return devices.open(layout);
    }

    @Override
    public void kill() {
      process.destroyForcibly();
      assertThat(process.onExit().join().isAlive()).isFalse();
    }

    @Override
    public void close() {
      devices.close();
      kill();
    }
  }
}
