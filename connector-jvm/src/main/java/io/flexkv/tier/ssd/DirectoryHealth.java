package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.lang.System.Logger.Level;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;

/**
 * Whether a directory serves, and if not, why. It recovers, then serves; it may stall and serve
 * again by itself; from any of these it may be lost, and stays so: what is attached again is
 * another {@link SsdDirectory}. What follows from a change is the directory's business.
 *
 * <p>Thread-safe.
 */
final class DirectoryHealth {
  private static final System.Logger LOG = System.getLogger(DirectoryHealth.class.getName());

  private final Path path;
  private final SsdTuning tuning;
  private final AtomicInteger readErrors = new AtomicInteger();
  private volatile SsdStore.State state = SsdStore.State.RECOVERING;
  private volatile @Nullable String cause;

  DirectoryHealth(Path path, SsdTuning tuning) {
    this.path = path;
    this.tuning = tuning;
  }

  SsdStore.State state() {
    return state;
  }

  boolean serves() {
    return state == SsdStore.State.SERVING;
  }

  /** Why it does not serve, null if it does or is about to. */
  @Nullable String cause() {
    return cause;
  }

  /** It serves, unless it has been lost meanwhile. */
  synchronized void recovered() {
    if (state == SsdStore.State.RECOVERING) {
      state = SsdStore.State.SERVING;
    }
  }

  /** It is lost; false if it was before. */
  synchronized boolean lose(String why) {
    boolean lost = state != SsdStore.State.LOST;
    if (lost) {
      state = SsdStore.State.LOST;
      cause = why;
    }
    return lost;
  }

  /** It was lost, and could not be attached again. */
  synchronized void staysOut(String why) {
    cause = "it could not be attached again: " + why;
  }

  /** A read failed; says why the directory is to be taken out, null if it is not. */
  @Nullable String readFailed(int errno) {
    int failed = readErrors.incrementAndGet();
    return failed > tuning.maxReadErrors()
        ? "%d reads failed, the last by %s".formatted(failed, Errno.describe(errno))
        : null;
  }

  /**
   * Looks whether it hangs; answers whether it takes no work.
   *
   * @param oldestNanos when the oldest access under way began, {@code Long.MAX_VALUE} if none is
   */
  boolean checkStalled(long oldestNanos, long nanos) {
    boolean hangs = oldestNanos != Long.MAX_VALUE && nanos - oldestNanos > tuning.stallNanos();
    boolean fresh = false;
    synchronized (this) {
      if (hangs && state == SsdStore.State.SERVING) {
        state = SsdStore.State.STALLED;
        cause = "an access takes longer than %d ms".formatted(tuning.stallNanos() / 1_000_000);
        fresh = true;
      } else if (!hangs && state == SsdStore.State.STALLED) {
        state = SsdStore.State.SERVING;
        cause = null;
        LOG.log(Level.INFO, "SSD directory {0} answers again", path);
      }
    }
    if (fresh) {
      LOG.log(Level.WARNING, "SSD directory {0} stalls ({1}): nothing new is sent", path, cause);
    }
    return state == SsdStore.State.STALLED || state == SsdStore.State.LOST;
  }
}
