package io.flexkv.sidecar;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.config.ConfigException;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import io.flexkv.session.AddressLock;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import picocli.CommandLine.Command;

/** {@code serve} and {@code start}: run a sidecar until its end. */
@Command(mixinStandardHelpOptions = true, versionProvider = FlexKv.Version.class)
final class ServeCommand implements Callable<Integer>, OptionSpecs.Configured {
  private static final long EXIT_MILLIS = 1900;
  private static final long PROGRESS_MILLIS = 1000;

  private final boolean embedded;
  private final OptionSpecs.Given given = new OptionSpecs.Given();
  private final ObjectMapper json = new ObjectMapper();

  /**
   * @param embedded started by an engine: ends by idleness, logs to its file only
   */
  ServeCommand(boolean embedded) {
    this.embedded = embedded;
  }

  @Override
  public Map<String, String> given() {
    return given.given();
  }

  @Override
  public Integer call() throws Exception {
    Sidecar sidecar;
    try {
      Settings settings = Settings.load(System.getenv(), given());
      Path logFile = RuntimeFolder.logFile(settings);
      LogSetup.configure(
          logFile,
          settings.integer(Options.LOG_MAX_MB),
          settings.text(Options.LOG_LEVEL),
          !embedded);
      sidecar = Sidecar.start(settings, logFile.toString(), embedded);
    } catch (ConfigException e) {
      System.err.println("flexkv: " + e.getMessage());
      return FlexKv.EXIT_SETTINGS;
    } catch (AddressLock.OccupiedException e) {
      say("occupied", String.valueOf(e.getMessage()));
      return FlexKv.EXIT_OCCUPIED;
    } catch (IOException e) {
      System.err.println("flexkv: " + e.getMessage());
      return FlexKv.EXIT_SETTINGS;
    }
    CountDownLatch ended = new CountDownLatch(1);
    Runtime.getRuntime()
        .addShutdownHook(
            Thread.ofPlatform()
                .unstarted(() -> {
                  sidecar.stop("signal");
                  try {
                    ended.await(EXIT_MILLIS, TimeUnit.MILLISECONDS);
                  } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                  }
                }));
    print(sidecar.readyControl());
    Thread.ofPlatform().daemon().name("flexkv-progress").start(() -> progress(sidecar));
    try {
      sidecar.serveUntilEnd();
    } finally {
      ended.countDown();
    }
    return 0;
  }

  private void progress(Sidecar sidecar) {
    try {
      while (true) {
        ObjectNode line = sidecar.readyPool();
        print(line);
        if (line.path("finished").asBoolean()) {
          return;
        }
        Thread.sleep(PROGRESS_MILLIS);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private void say(String phase, String message) {
    print(json.createObjectNode().put("phase", phase).put("message", message));
  }

  private static void print(JsonNode line) {
    System.out.println(line);
    System.out.flush();
  }
}
