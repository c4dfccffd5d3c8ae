package io.flexkv.sidecar;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.cache.SsdConfig;
import io.flexkv.cache.WritePolicy;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import io.flexkv.session.SsdUse;
import io.flexkv.tier.ssd.SsdEngine;
import io.flexkv.tier.ssd.SsdInUseException;
import io.flexkv.tier.ssd.SsdOptions;
import io.flexkv.tier.ssd.SsdStore;
import java.io.IOException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The SSD tier as the settings want it, and what of it is not there. */
final class SsdSetup {
  private static final Logger LOG = LoggerFactory.getLogger(SsdSetup.class);
  private static final int THREADS = 8;
  private static final double GB = 1e9;
  private static final long MB = 1_000_000;

  private final boolean wanted;
  private final Map<Path, String> unusable = new LinkedHashMap<>();
  private @Nullable SsdUse use;

  private SsdSetup(boolean wanted) {
    this.wanted = wanted;
  }

  /** The tier, null if it is off or cannot be used. */
  @Nullable SsdUse use() {
    return use;
  }

  /**
   * What {@code status} tells besides the store's own: whether a tier was asked for, and each
   * folder that could not be used at the start, with the cause.
   */
  void put(ObjectNode ssd) {
    ssd.put("wanted", wanted);
    ArrayNode folders = ssd.putArray("unusable");
    unusable.forEach(
        (path, cause) -> folders.addObject().put("path", path.toString()).put("cause", cause));
  }

  /** Passes the store's news on, once somebody is there to hear them. */
  static final class News implements Runnable {
    private volatile Runnable hearer = () -> {};

    void to(Runnable whom) {
      hearer = whom;
    }

    @Override
    public void run() {
      hearer.run();
    }
  }

  /**
   * Opens it. A disk that cannot be used is one line in the log: the host tier serves alone then.
   *
   * @param wakeUp called when the store has news
   * @throws SsdInUseException if another sidecar has a directory that somebody named: a mistake in
   *     the configuration, which a start that went on would hide. Nobody chose the default folder,
   *     so one that is taken counts as a disk that cannot be used
   */
  static SsdSetup open(Settings settings, Runnable wakeUp) throws SsdInUseException {
    long bytes = settings.bytes(Options.SSD_CACHE_GB);
    String enabled = settings.text(Options.ENABLE_SSD);
    if (bytes == 0 || enabled.equals("0") || enabled.equals("false")) {
      if (settings.integer(Options.NUM_SSD_BLOCKS) > 0 && bytes == 0) {
        LOG.warn("num_ssd_blocks alone makes no SSD tier: ssd_cache_gb says how large it is");
      }
      return new SsdSetup(false);
    }
    SsdSetup setup = new SsdSetup(true);
    try {
      SsdEngine store = SsdEngine.open(options(settings), wakeUp, setup.unusable::put);
      LOG.info("SSD tier: {}", summary(store));
      setup.use = new SsdUse(store, config(settings), settings.integer(Options.NUM_SSD_BLOCKS));
    } catch (SsdInUseException e) {
      if (!settings.source(Options.SSD_CACHE_DIR).equals("default")) {
        throw e;
      }
      setup.failed(settings, e);
    } catch (IOException | IllegalArgumentException e) {
      setup.failed(settings, e);
    }
    return setup;
  }

  /** What serves, which may be less than what was asked for. */
  static String summary(SsdStore store) {
    List<Path> folders = store.directories().stream().map(SsdStore.DirectoryStatus::path).toList();
    return "%d bytes in %s".formatted(store.capacityBytes(), folders);
  }

  private void failed(Settings settings, Exception e) {
    String cause = String.valueOf(e.getMessage());
    LOG.error("no SSD tier, the host tier serves alone: {}", cause);
    for (Path folder : folders(settings)) {
      unusable.putIfAbsent(folder.toAbsolutePath().normalize(), cause);
    }
  }

  private static List<Path> folders(Settings settings) {
    return settings.paths(Options.SSD_CACHE_DIR).stream().map(Path::of).toList();
  }

  static SsdOptions options(Settings settings) {
    double fileGb = settings.number(Options.MAX_FILE_SIZE_GB);
    return new SsdOptions(
        folders(settings),
        settings.bytes(Options.SSD_CACHE_GB),
        fileGb <= 0 ? 0 : (long) (fileGb * GB),
        (int) settings.integer(Options.IOURING_ENTRIES),
        (int) settings.integer(Options.IOURING_FLAGS),
        THREADS,
        settings.integer(Options.SSD_SCRUB_MB_S) * MB);
  }

  private static SsdConfig config(Settings settings) {
    WritePolicy policy =
        switch (settings.text(Options.SSD_WRITE_POLICY)) {
          case "on_evict" -> WritePolicy.BACK;
          case "second_hit" -> WritePolicy.SECOND_HIT;
          default -> WritePolicy.THROUGH;
        };
    return SsdConfig.forHost(settings.hostBytes())
        .withWritePolicy(policy)
        .withRecompute(settings.integer(Options.SSD_RECOMPUTE_TOKENS_S))
        .withWait(settings.integer(Options.SSD_WAIT_MS) * 1_000_000);
  }
}
