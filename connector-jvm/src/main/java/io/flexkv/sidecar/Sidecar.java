package io.flexkv.sidecar;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.admin.ControlServer;
import io.flexkv.admin.MetricsServer;
import io.flexkv.cache.CacheConfig;
import io.flexkv.config.ConfigException;
import io.flexkv.config.Note;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import io.flexkv.device.CudaCopyPath;
import io.flexkv.device.Devices;
import io.flexkv.protocol.RequestException;
import io.flexkv.session.AddressLock;
import io.flexkv.session.BootIdentity;
import io.flexkv.session.CacheAgent;
import io.flexkv.session.HostSlots;
import io.flexkv.session.LookupWarmup;
import io.flexkv.session.RendezvousServer;
import io.flexkv.session.SessionControl;
import io.flexkv.session.SsdUse;
import io.flexkv.tier.HostPool;
import io.flexkv.tier.NumaPlacement;
import io.flexkv.tier.PoolPages;
import io.flexkv.tier.ssd.SsdStore;
import io.flexkv.transfer.MoveLimits;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/** One running sidecar: everything wired together, from the lock on its address to its end. */
final class Sidecar {
  /** Of the pool, while it gets its pages: what the first requests save and load lies there. */
  private static final long PINNED_MEANWHILE = 1L << 30;

  private static final Logger LOG = LoggerFactory.getLogger(Sidecar.class);

  /** Longer than another one's end may take, which holds the address until it is over. */
  private static final long LOCK_PATIENCE_MILLIS = 10_000;

  private static final long JOIN_MILLIS = 800;
  private static final long WRITES_MILLIS = 600;
  private static final ObjectMapper JSON = new ObjectMapper();

  private final AddressLock lock;
  private final String address;
  private final BootIdentity identity;
  private final NumaPlacement placement;
  private final HostPool pool;
  private final Devices devices;
  private final SsdSetup ssdSetup;
  private final @Nullable SsdUse ssd;
  private final CacheAgent agent;
  private final SessionControl sessions;
  private final ControlServer control;
  private final RendezvousServer rendezvous;
  private final Thread agentThread;
  private final Thread controlThread;
  private final Thread rendezvousThread;
  private final PoolResizing resizing;
  private final @Nullable MetricsServer metrics;
  private final long idleExitNanos;
  private final long startedNanos = System.nanoTime();
  private final CountDownLatch stopAsked = new CountDownLatch(1);
  private volatile String stopReason = "";
  private volatile boolean failed;

  private Sidecar(
      Settings settings,
      MachineMemory machine,
      AddressLock lock,
      BootIdentity identity,
      boolean idleExit)
      throws IOException {
    this.lock = lock;
    this.address = settings.text(Options.SERVER_RECV_PORT);
    this.identity = identity;
    this.idleExitNanos = idleExit ? settings.nanos(Options.IDLE_EXIT_S) : 0;
    machine.require(settings.hostBytes(), MachineMemory.sizedBy(settings));
    placement = placement(settings);
    PoolPages pages = pages(settings).placed(placement);
    pool = HostPool.create("flexkv-host", settings.hostBytes(), pages);
    HostSlots slots = new HostSlots(pool, settings.integer(Options.NUM_CPU_BLOCKS));
    long plan = settings.nanos(Options.PLAN_TTL_S);
    CacheConfig limits =
        CacheConfig.defaults().withTimes(settings.nanos(Options.LEASE_TTL_S), plan, plan);
    SsdSetup.News ssdNews = new SsdSetup.News();
    ssdSetup = SsdSetup.open(settings, ssdNews);
    ssd = ssdSetup.use();
    agent = new CacheAgent(identity, slots, ssd, limits, settings.integer(Options.SPIN_US) * 1000);
    ssdNews.to(agent::ssdMoved);
    devices =
        new Devices(pool.segments(), CudaCopyPath.named(settings.text(Options.GPU_COPY_PATH)));
    agent.setEviction(Tuning.eviction(settings));
    agent.endWith(this::fail);
    agent.tell(
        settings.flag(Options.TRANSFER_TRACE), settings.nanos(Options.EVICTION_LOG_INTERVAL_S));
    MoveLimits moves = new MoveLimits();
    sessions = new SessionControl(agent, devices::open, moves);
    int threads = (int) settings.integer(Options.PREFAULT_THREADS);
    resizing = new PoolResizing(pool, devices, ssd, machine, threads);
    devices.pinAfter(resizing::finished, PINNED_MEANWHILE);
    SsdStore disks = ssd == null ? null : ssd.store();
    Tuning tuning = new Tuning(settings, sessions::change, resizing, new SsdResizing(disks), moves);
    control = new ControlServer(identity.controlToken());
    control
        .on("ping", args -> JSON.createObjectNode())
        .onOwnThread("register", sessions::register)
        .onOwnThread("prove_read", sessions::proveRead)
        .onOwnThread("prove_write", sessions::proveWrite)
        .on("confirm", sessions::confirm)
        .on("status", args -> status(sessions))
        .on("set", tuning::set)
        .on("ssd_reattach", new SsdControl(disks)::reattach)
        .on("settings", args -> tuning.effective())
        .on("stop", args -> stopByRequest());
    rendezvous =
        RendezvousServer.create(
            lock.listen(),
            identity,
            control.endpoint(),
            agent,
            (int) settings.integer(Options.MAX_SESSIONS));
    agentThread = thread("flexkv-cache", agent);
    controlThread = thread("flexkv-control", control);
    rendezvousThread = thread("flexkv-rendezvous", rendezvous);
    metrics = openMetrics(settings);
  }

  /** A port that cannot be had costs the figures, not the cache. */
  private @Nullable MetricsServer openMetrics(Settings settings) {
    if (!settings.flag(Options.ENABLE_METRICS)) {
      return null;
    }
    try {
      return MetricsServer.start(
          settings.text(Options.METRICS_HOST),
          (int) settings.integer(Options.METRICS_PORT),
          () -> status(sessions));
    } catch (IOException e) {
      LOG.error("{}", e.getMessage());
      return null;
    }
  }

  private static PoolPages pages(Settings settings) throws IOException {
    return settings.flag(Options.USE_HUGEPAGE_CPU_BUFFER)
        ? PoolPages.reserved(settings.integer(Options.HUGEPAGE_SIZE_BYTES))
        : PoolPages.OF_THE_SYSTEM;
  }

  private static NumaPlacement placement(Settings settings) {
    return settings.text(Options.NUMA_BIND).equals("auto")
        ? NumaNodes.ofGpus(Path.of("/"))
        : NumaPlacement.anywhere("off");
  }

  private Thread thread(String name, Runnable body) {
    return Thread.ofPlatform()
        .name(name)
        .daemon()
        .uncaughtExceptionHandler((t, e) -> {
          LOG.error("{} ended, and this sidecar with it", t.getName(), e);
          fail(name + " failed: " + e);
        })
        .unstarted(body);
  }

  /**
   * Starts one; returns once clients are welcome.
   *
   * @param idleExit whether to end when the last client has been gone for {@code idle_exit_s}
   * @throws AddressLock.OccupiedException if somebody else serves the address
   */
  static Sidecar start(Settings given, String logFile, boolean idleExit)
      throws IOException, InterruptedException, ConfigException {
    MachineMemory machine = MachineMemory.read(Path.of("/"));
    Settings settings = machine.bounded(given);
    AddressLock lock = AddressLock.take(settings.socketPath(), LOCK_PATIENCE_MILLIS);
    try {
      BootIdentity identity = BootIdentity.create(FlexKv.version(), logFile);
      Sidecar sidecar = new Sidecar(settings, machine, lock, identity, idleExit);
      sidecar.devices.prepare();
      sidecar.agentThread.start();
      sidecar.controlThread.start();
      sidecar.rendezvousThread.start();
      LookupWarmup.start(sidecar.ssd != null);
      LOG.info(
          "flexkv {} serves {}: {}, host tier {} bytes, set: {}",
          FlexKv.version(),
          settings.socketPath(),
          identity,
          sidecar.pool.capacityBytes(),
          settings.changed());
      settings.notes().forEach(note -> LOG.atLevel(level(note)).log(note.text()));
      return sidecar;
    } catch (IOException | RuntimeException e) {
      lock.close();
      throw e;
    }
  }

  private static Level level(Note note) {
    return note.warning() ? Level.WARN : Level.INFO;
  }

  /** For whoever started it by hand: what it is and has, in a few words. */
  String summary() {
    String disks = ssd == null ? "no" : gigabytes(ssd.store().capacityBytes());
    return "pid %d, host tier %s, %s SSD tier"
        .formatted(identity.pid(), gigabytes(pool.capacityBytes()), disks);
  }

  private static String gigabytes(long bytes) {
    BigDecimal value = BigDecimal.valueOf(bytes, 9).setScale(2, RoundingMode.HALF_UP);
    return value.stripTrailingZeros().toPlainString() + " GB";
  }

  /** What a starter reads on stdout once clients are welcome. */
  JsonNode readyControl() {
    ObjectNode line = JSON.createObjectNode();
    line.put("phase", "ready-control");
    line.put("endpoint", control.endpoint());
    line.put("pid", identity.pid());
    line.put("boot_epoch", identity.epochText());
    line.put("log_file", identity.logFile());
    return line;
  }

  /** How much of the host tier has its pages. */
  ObjectNode readyPool() {
    ObjectNode line = JSON.createObjectNode();
    line.put("phase", "ready-pool");
    line.put("bytes", resizing.populatedBytes());
    line.put("of", pool.capacityBytes());
    line.put("finished", resizing.finished());
    line.put("to_give_back", pool.surplusBytes());
    line.put("pinned", devices.pinnedBytes());
    line.put("numa", placement.outcome());
    return line;
  }

  private JsonNode status(SessionControl sessions) throws RequestException {
    ObjectNode json = sessions.status().deepCopy();
    json.put("build", identity.build());
    json.put("pid", identity.pid());
    json.put("uptime_s", (System.nanoTime() - startedNanos) / 1_000_000_000);
    json.put("boot_epoch", identity.epochText());
    json.put("log_file", identity.logFile());
    json.put("address", address);
    json.put("clients", rendezvous.clients());
    json.set("pool", readyPool());
    ssdSetup.put(json.withObject("/ssd"));
    return json;
  }

  private JsonNode stopByRequest() {
    stop("asked to by a client");
    return JSON.createObjectNode();
  }

  /** Asks it to end; any thread, returns at once. */
  void stop(String reason) {
    if (stopReason.isEmpty()) {
      stopReason = reason;
    }
    stopAsked.countDown();
  }

  /** As {@link #stop}, but nobody wanted that. */
  void fail(String reason) {
    failed = true;
    stop(reason);
  }

  /** Whether it ends because a thread of it failed, or a device did. */
  boolean failed() {
    return failed;
  }

  /** Returns once it has been asked to end, or ends by itself; false if interrupted before. */
  boolean awaitStop() {
    try {
      stopAsked.await();
      return true;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }

  /** Lets blocks that wait for the SSD get there, for a moment: what does not is not kept. */
  private void awaitWrites() throws InterruptedException {
    long until = System.nanoTime() + WRITES_MILLIS * 1_000_000;
    while (ssd != null && agentThread.isAlive() && System.nanoTime() < until) {
      try {
        JsonNode now = sessions.status().path("ssd");
        if (now.path("queued_bytes").asLong() == 0 && now.path("writes").asInt() == 0) {
          return;
        }
      } catch (RequestException e) {
        LOG.debug("the cache thread does not answer: {}", e.getMessage());
        return;
      }
      TimeUnit.MILLISECONDS.sleep(10);
    }
  }

  /**
   * Waits until somebody asks it to end or it has been idle for long enough, then ends it.
   *
   * @return false if neither was so: a thread of it failed, or a device did
   */
  boolean serveUntilEnd() throws IOException, InterruptedException {
    while (!stopAsked.await(500, TimeUnit.MILLISECONDS)) {
      if (idleExitNanos > 0 && rendezvous.idleNanos() > idleExitNanos) {
        stop("its last client has been gone for " + idleExitNanos / 1_000_000_000 + " s");
      }
    }
    LOG.info("ends: {}", stopReason);
    rendezvous.refuseNew();
    // From here on whoever finds nobody starts another; it waits for our lock.
    lock.unlinkSocket();
    rendezvous.close();
    rendezvousThread.join(JOIN_MILLIS);
    awaitWrites();
    agent.stop();
    agentThread.join(JOIN_MILLIS);
    SsdUse disks = ssd;
    if (disks != null) {
      disks.store().close();
    }
    control.close();
    MetricsServer figures = metrics;
    if (figures != null) {
      figures.close();
    }
    resizing.close();
    devices.close();
    lock.close();
    LOG.info("ended");
    return !failed;
  }
}
