package io.flexkv.sidecar;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.session.AddressLock;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** How a whole sidecar ends that fails, as a process: engines start another at its address. */
class SidecarEndTest {
  private static final int PATIENCE_S = 60;

  @TempDir Path folder;
  private final List<Process> children = new ArrayList<>();

  @AfterEach
  void killWhatIsLeft() {
    children.forEach(Process::destroyForcibly);
  }

  private Process start(String name, boolean hangs) throws IOException {
    Path runtime = Files.createDirectory(folder.resolve(name));
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:TieredStopAtLevel=1",
                "-Xmx64m",
                "--enable-native-access=ALL-UNNAMED",
                "-cp",
                System.getProperty("java.class.path"),
                SidecarEndChild.class.getName(),
                Boolean.toString(hangs)));
    command.addAll(
        List.of(
            "--server-recv-port=ipc://" + folder.resolve(name + ".sock"),
            "--runtime-dir=" + runtime,
            "--cpu-cache-gb=0.01",
            "--prefault-threads=0"));
    Process child =
        new ProcessBuilder(command)
            .redirectErrorStream(true)
            .redirectOutput(runtime.resolve("out").toFile())
            .start();
    children.add(child);
    return child;
  }

  private void assertEndedWithItsAddressFree(Process child, String name) throws Exception {
    String said = name + ": " + Files.readString(folder.resolve(name).resolve("out"));
    assertThat(child.waitFor(PATIENCE_S, TimeUnit.SECONDS)).as("%s", said).isTrue();
    assertThat(child.exitValue()).as("%s", said).isEqualTo(FlexKv.EXIT_FAILED);
    AddressLock.take(folder.resolve(name + ".sock"), 0).close();
  }

  @Test
  void sidecarFails_evenIfItsEndHangs_isGoneWithExitCode1AndItsAddressIsFree() throws Exception {
    Process plain = start("plain", false);
    Process hanging = start("hanging", true);
    assertEndedWithItsAddressFree(plain, "plain");
    assertEndedWithItsAddressFree(hanging, "hanging");
    assertThat(log("plain")).contains("ends: told to by the test").endsWith("ended\n");
    assertThat(log("hanging")).contains("halts all the same").contains("serveUntilEnd");
  }

  private String log(String name) throws IOException {
    try (var files = Files.list(folder.resolve(name))) {
      Path log = files.filter(file -> file.toString().endsWith(".log")).findAny().orElseThrow();
      return Files.readString(log);
    }
  }
}
