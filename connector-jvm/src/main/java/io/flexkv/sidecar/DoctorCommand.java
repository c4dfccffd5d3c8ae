package io.flexkv.sidecar;

import io.flexkv.tier.ssd.SsdDoctor;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/** {@code doctor}: looks over what a sidecar that does not run has left on the disks. */
@Command(mixinStandardHelpOptions = true, versionProvider = FlexKv.Version.class)
final class DoctorCommand implements Callable<Integer> {
  @Option(
      names = "--ssd",
      required = true,
      split = ";",
      paramLabel = "DIR",
      description = "a folder of the SSD tier; several are separated by ; or named one by one")
  private List<Path> ssd = List.of();

  /** 0 = all blocks verify, 1 = some do not or cannot be read, 2 = cannot look. */
  @Override
  public Integer call() {
    LogSetup.silence();
    try {
      return SsdDoctor.examineAll(ssd, System.out::println) ? 0 : 1;
    } catch (IOException e) {
      System.err.println("flexkv: " + e.getMessage());
      return FlexKv.EXIT_SETTINGS;
    }
  }
}
