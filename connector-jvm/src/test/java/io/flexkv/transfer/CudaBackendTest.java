package io.flexkv.transfer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.flexkv.device.AllocationHandle;
import io.flexkv.device.CudaCopyPath;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Devices;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import io.flexkv.ffm.CudaDriver;
import io.flexkv.ffm.PidFd;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * The CUDA backend without a GPU: {@link CudaSelfTest} and {@link CudaCopyBench} in a JVM whose
 * {@code libcuda.so.1} is {@code fake_cuda.c}. It shows that JCuda loads, that signatures, handles,
 * events, batches and pins are right as far as a strict stand-in can tell. On a real GPU {@code
 * make test-gpu} runs the same two programs ({@code tests/gpu/self_test.py}, {@code
 * copy_bench.py}).
 */
@Timeout(180)
final class CudaBackendTest {
  private static final long MIB = 1 << 20;

  @TempDir Path folder;

  @Test
  void selfTest_driverWithBothBatches_allPathsExact() throws Exception {
    Map<String, JsonNode> records = selfTest(48 * MIB, 36 * MIB);
    for (CudaCopyPath path : EnumSet.complementOf(EnumSet.of(CudaCopyPath.BATCH))) {
      assertThat(records)
          .containsKey(path + ": pinned pool, both ways, byte-exact")
          .containsKey(path + ": rows in strided copies, both ways, byte-exact");
    }
    assertThat(counted("by-processor")).as("short loads that met nothing on their stream").isZero();
    assertThat(counted("rows-on-work"))
        .as("rows for the processor that met something on their stream")
        .isLessThan(counted("rows-at-rest") / 20);
    assertThat(counted("fast-rows"))
        .as("strided loads to where a plain one was first since the last change of mappings")
        .isGreaterThan(counted("slow-rows") / 4); // a twelfth where chance alone brings it about
    assertThat(counted("fast-wide-rows"))
        .as("strided loads to where only the beginning of such a row came by itself")
        .isGreaterThan(counted("slow-wide-rows") / 3); // a tenth where chance alone does
  }

  /** As the stand-in counted them, where there were any. */
  private long counted(String what) throws IOException {
    long counted = 0;
    try (Stream<Path> files = Files.list(folder)) {
      for (Path file : files.filter(f -> f.getFileName().toString().startsWith(what)).toList()) {
        counted += Long.parseLong(Files.readString(file));
      }
    }
    return counted;
  }

  @Test
  void selfTest_driverOfCuda12_8_takesTheOlderBatch() throws Exception {
    Map<String, JsonNode> records = selfTest(32 * MIB, 4 * MIB, "-DWITHOUT_V2");
    assertThat(records)
        .containsKey("AUTO: pinned pool, both ways, byte-exact")
        .containsKey("BATCH_V1: pinned pool, both ways, byte-exact")
        .containsKey("BATCH_V2: not offered by this driver");
  }

  @Test
  void selfTest_driverRefusesBatches_copiesOneByOne() throws Exception {
    assertThat(selfTest(32 * MIB, 4 * MIB, "-DWITHOUT_BATCHES"))
        .containsKey("AUTO: pinned pool, both ways, byte-exact");
  }

  @Test
  void selfTest_driverIsShortOfMemoryForAMoment_batchesAgainAfterwards() throws Exception {
    assertThat(selfTest(32 * MIB, 4 * MIB, "-DSHORT_TWICE", "-DWITHOUT_STRIDED"))
        .containsKey("AUTO: pinned pool, both ways, byte-exact");
    assertThat(counted("after-shortage")).isPositive();
  }

  @Test
  void selfTest_noMoreEvents_streamIsGivenBack() throws Exception {
    compileFake("-DSHORT_OF_EVENTS");
    Process process =
        selfTestProcess(folder.resolve("records.json"), 32 * MIB, 4 * MIB)
            .redirectErrorStream(true)
            .start();
    String output = new String(process.getInputStream().readAllBytes(), UTF_8);
    assertThat(process.waitFor()).as(output).isNotZero();
    assertThat(output).contains("cuEventCreate failed");
    assertThat(counted("streams-left")).isZero();
  }

  @Test
  void selfTest_driverRefusesStridedCopies_rowsOneByOne() throws Exception {
    assertThat(selfTest(32 * MIB, 4 * MIB, "-DWITHOUT_STRIDED"))
        .containsKey("AUTO: rows in strided copies, both ways, byte-exact");
  }

  /** What a proof would let pass if it went row by row, as it did. */
  @Test
  void selfTest_stridedCopiesLeaveOutARow_proofFindsIt() throws Exception {
    compileFake("-DWRONG_STRIDED");
    Path json = folder.resolve("records.json");
    Process process = selfTestProcess(json, 32 * MIB, 4 * MIB).redirectErrorStream(true).start();
    String output = new String(process.getInputStream().readAllBytes(), UTF_8);
    assertThat(process.waitFor()).as(output).isNotZero();
    List<String> failed = new ArrayList<>();
    new ObjectMapper()
        .readTree(json.toFile())
        .forEach(r -> {
          if (!r.get("met").asBoolean(true)) {
            failed.add(r.get("name").asText());
          }
        });
    assertThat(failed)
        .contains(
            "AUTO: layout proof by strided copies, written",
            "AUTO: layout proof by strided copies, read");
  }

  /** Not how fast, only that every figure comes, and that the bare program moves what it says. */
  @Test
  void copyBench_standInForTheDriver_everyPrimitiveRuns() throws Exception {
    compileFake();
    Path bare = folder.resolve("bare_copy");
    Path source = Path.of("..", "tests", "gpu", "bare_copy.cpp");
    compile("c++", "-O1", "-std=c++17", "-o", bare, source, "-ldl", "-pthread");
    Path json = folder.resolve("bench.json");
    long[] sizes = {1, 32 * MIB, 4 * MIB, 40 * MIB, 4, 8};
    List<String> command =
        java(
            System.getProperty("java.class.path"),
            CudaCopyBench.class,
            bare.toString(),
            json.toString());
    Arrays.stream(sizes).forEach(size -> command.add(Long.toString(size)));
    String output = run(withFake(command));
    List<String> names = new ArrayList<>();
    new ObjectMapper()
        .readTree(json.toFile())
        .forEach(r -> {
          names.add(r.get("name").asText());
          assertThat(r.get("value").asDouble()).as(output).isNotNaN();
          if (r.get("unit").asText().equals("GB/s")) {
            assertThat(r.get("value").asDouble()).as(r.toString()).isPositive();
          }
        });
    assertThat(names)
        .contains("bare longrows, both ways, 4 KiB rows, one allocation, runs of 8")
        .contains("bare runs3d, SAVE, 8 KiB rows, an allocation a layer, runs of 8")
        .contains("bare rows2d, LOAD, 4 KiB rows, one allocation, scattered")
        .contains("the pool pinned beside copies without a pause");
  }

  private Map<String, JsonNode> selfTest(long gpuBytes, long checked, String... compilerFlags)
      throws Exception {
    compileFake(compilerFlags);
    Path json = folder.resolve("records.json");
    String output = run(selfTestProcess(json, gpuBytes, checked));
    assertThat(json).as(output).exists();
    boolean refuses =
        Arrays.stream(compilerFlags)
            .anyMatch(flag -> flag.matches("-D(WITHOUT_(BATCHES|STRIDED)|SHORT_TWICE)"));
    if (refuses) {
      assertThat(output).contains("simpler copies on this stream");
    } else {
      assertThat(output).doesNotContain("simpler copies on this stream");
    }
    List<JsonNode> records = new ArrayList<>();
    new ObjectMapper().readTree(json.toFile()).forEach(records::add);
    assertThat(records)
        .filteredOn(r -> r.get("unit").asText().equals("bool"))
        .as(output)
        .hasSizeGreaterThanOrEqualTo(15)
        .allMatch(r -> r.get("met").asBoolean());
    return records.stream().collect(Collectors.toMap(r -> r.get("name").asText(), r -> r));
  }

  private ProcessBuilder selfTestProcess(Path json, long gpuBytes, long checked) {
    List<String> command =
        java(
            System.getProperty("java.class.path"),
            CudaSelfTest.class,
            json.toString(),
            Long.toString(gpuBytes),
            Long.toString(checked));
    return withFake(command);
  }

  private ProcessBuilder withFake(List<String> command) {
    ProcessBuilder builder = new ProcessBuilder(command);
    builder.environment().put("LD_LIBRARY_PATH", folder.toString());
    builder.environment().put("FAKE_CUDA_DIR", folder.toString());
    return builder;
  }

  private void compileFake(String... flags) throws Exception {
    Path source = folder.resolve("fake_cuda.c");
    try (InputStream in = getClass().getResourceAsStream("fake_cuda.c")) {
      Files.write(source, Objects.requireNonNull(in).readAllBytes());
    }
    List<Object> command = new ArrayList<>(List.of("cc", "-shared", "-fPIC", "-o"));
    command.add(folder.resolve("libcuda.so.1"));
    command.add(source);
    command.addAll(Arrays.asList(flags));
    compile(command.toArray());
  }

  private static void compile(Object... words) throws InterruptedException {
    List<String> command = Arrays.stream(words).map(Object::toString).toList();
    Process compiler;
    try {
      compiler = new ProcessBuilder(command).inheritIO().start();
    } catch (IOException e) {
      assumeTrue(false, "no compiler to build what stands in for libcuda: " + e.getMessage());
      return;
    }
    assertThat(compiler.waitFor()).isZero();
  }

  private static List<String> java(String classPath, Class<?> main, String... arguments) {
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-Xmx512m",
                "--enable-native-access=ALL-UNNAMED",
                "-cp",
                classPath,
                main.getName()));
    command.addAll(Arrays.asList(arguments));
    return command;
  }

  private static String run(ProcessBuilder builder) throws Exception {
    Process process = builder.redirectErrorStream(true).start();
    try {
      String output = new String(process.getInputStream().readAllBytes(), UTF_8);
      assertThat(process.waitFor(10, TimeUnit.SECONDS)).isTrue();
      assertThat(process.exitValue()).as(output).isZero();
      return output;
    } finally {
      process.destroyForcibly();
    }
  }

  private static final java.nio.charset.Charset UTF_8 = java.nio.charset.StandardCharsets.UTF_8;

  @Test
  void open_noDriver_refusedWithTheRemedy() throws Exception {
    assumeTrue(CudaDriver.find().isEmpty(), "this machine has a CUDA driver");
    RankLayout layout =
        RankLayout.of(
            List.of(new AllocationHandle.CudaIpc("00".repeat(64), 0, 4096, "GPU-1")),
            List.of(new Region(0, 0, 4096, 4096, 1)),
            "test");
    try (Devices devices = new Devices(List.of(), CudaCopyPath.AUTO)) {
      assertThatThrownBy(() -> devices.open(layout))
          .isInstanceOfSatisfying(
              DeviceException.class,
              e -> assertThat(e.kind()).isEqualTo(DeviceException.Kind.UNSUPPORTED))
          .hasMessageContaining("libcuda.so.1 not found");
    }
  }

  @Test
  void open_gpuThatTheSidecarDoesNotSee_refusedWithTheRemedy() throws Exception {
    compileFake();
    assertThat(run(withFake(java(System.getProperty("java.class.path"), OtherGpu.class))))
        .contains("GPU " + OtherGpu.UUID + " is not visible to the sidecar")
        .contains("it sees [" + "ab".repeat(16) + "]")
        .contains("start it without CUDA_VISIBLE_DEVICES");
  }

  /** Engines ask the newer call, too: both sides must name an instance of a GPU alike. */
  @Test
  void open_gpuThatIsParted_itsInstanceIsWhatTheSidecarSees() throws Exception {
    compileFake("-DPARTED");
    assertThat(run(withFake(java(System.getProperty("java.class.path"), OtherGpu.class))))
        .contains("it sees [" + "cd".repeat(16) + "]");
  }

  /** Opens memory of a GPU that is not there, and prints why that cannot be. */
  static final class OtherGpu {
    static final String UUID = "GPU-00000000-0000-0000-0000-000000000001";

    private OtherGpu() {}

    public static void main(String[] args) throws Exception {
      RankLayout layout =
          RankLayout.of(
              List.of(new AllocationHandle.CudaIpc("00".repeat(64), 0, 4096, UUID)),
              List.of(new Region(0, 0, 4096, 4096, 1)),
              "test");
      try (Devices devices = new Devices(List.of(), CudaCopyPath.AUTO)) {
        devices.open(layout);
      } catch (DeviceException e) {
        System.out.println(e.getMessage());
      }
    }
  }

  @Test
  void open_processMemory_worksWithoutJCudaOnTheClassPath() throws Exception {
    String without =
        Arrays.stream(System.getProperty("java.class.path").split(File.pathSeparator, -1))
            .filter(entry -> !entry.contains("jcuda"))
            .collect(Collectors.joining(File.pathSeparator));
    String output = run(new ProcessBuilder(java(without, ProcessOnly.class)));
    assertThat(output).contains("opened without JCuda");
  }

  /** Run in a JVM without JCuda. */
  static final class ProcessOnly {
    private ProcessOnly() {}

    public static void main(String[] args) throws Exception {
      int pid = (int) ProcessHandle.current().pid();
      try (Arena arena = Arena.ofShared()) {
        MemorySegment engine = arena.allocate(4096, 8);
        MemorySegment host = arena.allocate(4096, 8);
        AllocationHandle handle =
            new AllocationHandle.ProcessMemory(
                pid, PidFd.startTimeTicks(pid), engine.address(), 4096);
        RankLayout layout =
            RankLayout.of(List.of(handle), List.of(new Region(0, 0, 4096, 4096, 1)), "test");
        try (Devices devices = new Devices(List.of(host), CudaCopyPath.AUTO);
            DeviceMemory memory = devices.open(layout)) {
          new LayoutProof(memory, host, 5_000_000_000L).write(1, new int[] {0});
          if (ProofImage.difference(engine, layout, 1, 0).isEmpty()) {
            System.out.println("opened without JCuda");
          }
        }
      }
    }
  }
}
