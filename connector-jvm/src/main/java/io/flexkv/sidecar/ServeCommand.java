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
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import picocli.CommandLine.Command;

/** {@code serve} and {@code start}: run a sidecar until its end. */
@Command(mixinStandardHelpOptions = true, versionProvider = FlexKv.Version.class)
final class ServeCommand implements Callable<Integer>, OptionSpecs.Configured {
  private static final Logger LOG = LoggerFactory.getLogger(ServeCommand.class);
  private static final long EXIT_MILLIS = 1900;

  /** More than an end takes whose disks answer; less than a successor waits for the address. */
  private static final long END_MILLIS = 4000;

  private static final long LAST_LINE_MILLIS = 200;
  private static final long PROGRESS_MILLIS = 1000;

  private final boolean embedded;
  private final long endMillis;
  private final OptionSpecs.Given given = new OptionSpecs.Given();
  private final ObjectMapper json = new ObjectMapper();

  /**
   * @param embedded started by an engine: ends by idleness, logs to its file only, and tells on
   *     stdout how far it is, one JSON object a line
   */
  ServeCommand(boolean embedded) {
    this(embedded, END_MILLIS);
  }

  ServeCommand(boolean embedded, long endMillis) {
    this.embedded = embedded;
    this.endMillis = endMillis;
  }

  @Override
  public Map<String, String> given() {
    return given.given();
  }

  /**
   * Serves until the end. A signal is as good a way to ask for that as any other: where the end was
   * in time, this process' exit status is the same one, and not the JVM's 128 + the signal's
   * number, which a supervisor takes for a failure.
   */
  @Override
  public Integer call() throws Exception {
    return call(new CompletableFuture<>());
  }

  /**
   * @param begun gets the sidecar once it serves
   */
  int call(CompletableFuture<Sidecar> begun) throws IOException, InterruptedException {
    CompletableFuture<Integer> ended = new CompletableFuture<>();
    Runtime.getRuntime()
        .addShutdownHook(Thread.ofPlatform().unstarted(() -> endBySignal(begun, ended)));
    haltWhereTheEndHangs(begun, ended);
    int code = FlexKv.EXIT_FAILED;
    try {
      code = serve(begun);
      return code;
    } finally {
      ended.complete(code);
    }
  }

  private static void endBySignal(
      CompletableFuture<Sidecar> begun, CompletableFuture<Integer> ended) {
    var _ = begun.thenAccept(sidecar -> sidecar.stop("signal"));
    try {
      Runtime.getRuntime().halt(ended.get(EXIT_MILLIS, TimeUnit.MILLISECONDS));
    } catch (TimeoutException | ExecutionException e) {
      LOG.warn("not ended {} ms after a signal: ended all the same", EXIT_MILLIS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /**
   * Once told to end, this process is gone within seconds, whatever hangs then: a driver, a disk,
   * the log. Whoever finds nobody at the address starts another sidecar, and that one waits for the
   * lock, which the kernel takes from a process that is gone.
   */
  private void haltWhereTheEndHangs(
      CompletableFuture<Sidecar> begun, CompletableFuture<Integer> ended) {
    Thread serving = Thread.currentThread();
    Thread.ofPlatform()
        .name("flexkv-end")
        .daemon()
        .start(() -> {
          Sidecar sidecar = begun.join();
          if (sidecar.awaitStop() && !inTime(ended)) {
            tellWhereItHangs(serving);
            Runtime.getRuntime().halt(sidecar.failed() ? FlexKv.EXIT_FAILED : 0);
          }
        });
  }

  private boolean inTime(CompletableFuture<Integer> ended) {
    try {
      ended.get(endMillis, TimeUnit.MILLISECONDS);
      return true;
    } catch (TimeoutException | ExecutionException | InterruptedException e) {
      return false;
    }
  }

  /** On a thread of its own: the log may be what hangs. */
  private void tellWhereItHangs(Thread serving) {
    IllegalStateException where = new IllegalStateException("it hangs here");
    where.setStackTrace(serving.getStackTrace());
    Thread telling =
        Thread.ofPlatform()
            .daemon()
            .start(() -> LOG.error("not ended after {} ms, halts all the same", endMillis, where));
    try {
      telling.join(LAST_LINE_MILLIS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private int serve(CompletableFuture<Sidecar> begun) throws IOException, InterruptedException {
    Settings settings;
    Sidecar sidecar;
    try {
      settings = Settings.load(System.getenv(), given());
      Path logFile = RuntimeFolder.logFile(settings);
      LogSetup.configure(
          logFile,
          settings.integer(Options.LOG_MAX_MB),
          settings.text(Options.LOG_LEVEL),
          !embedded);
      sidecar = Sidecar.start(settings, logFile.toString(), embedded);
    } catch (AddressLock.OccupiedException e) {
      occupied(String.valueOf(e.getMessage()));
      return FlexKv.EXIT_OCCUPIED;
    } catch (ConfigException | IOException e) {
      System.err.println("flexkv: " + e.getMessage());
      return FlexKv.EXIT_SETTINGS;
    }
    begun.complete(sidecar);
    if (embedded) {
      print(sidecar.readyControl());
      Thread.ofPlatform().daemon().name("flexkv-progress").start(() -> progress(sidecar));
    } else {
      String address = settings.text(Options.SERVER_RECV_PORT);
      LOG.info("ready at {} ({}), stop with Ctrl-C or SIGTERM", address, sidecar.summary());
    }
    return sidecar.serveUntilEnd() ? 0 : FlexKv.EXIT_FAILED;
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

  private void occupied(String message) {
    if (embedded) {
      print(json.createObjectNode().put("phase", "occupied").put("message", message));
    } else {
      System.err.println("flexkv: " + message);
    }
  }

  private static void print(JsonNode line) {
    System.out.println(line);
    System.out.flush();
  }
}
