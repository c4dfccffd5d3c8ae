package io.flexkv.session;

import java.util.EnumMap;
import java.util.Map;
import java.util.function.LongSupplier;
import org.slf4j.Logger;

/**
 * One line for a refused client, and at most one in ten seconds for each reason; the next line says
 * how many there were in between. So a stranger can fill neither disk nor log. One thread.
 */
final class RateLimitedLog {
  private static final long QUIET_NANOS = 10_000_000_000L;

  /** The text may quote what a stranger sent. */
  private static final int MAX_TEXT = 300;

  private static final class State {
    long lastNanos;
    long suppressed;
  }

  private final Logger log;
  private final LongSupplier nanoTime;
  private final Map<RefusedException.Code, State> states =
      new EnumMap<>(RefusedException.Code.class);

  RateLimitedLog(Logger log, LongSupplier nanoTime) {
    this.log = log;
    this.nanoTime = nanoTime;
  }

  void refused(RefusedException.Code code, String who, String message) {
    long now = nanoTime.getAsLong();
    State state = states.get(code);
    if (state != null && now - state.lastNanos < QUIET_NANOS) {
      state.suppressed++;
      return;
    }
    long suppressed = state == null ? 0 : state.suppressed;
    State fresh = new State();
    fresh.lastNanos = now;
    states.put(code, fresh);
    log.warn(
        "refused {} ({}): {}{}",
        who,
        code.wire(),
        message.length() > MAX_TEXT ? message.substring(0, MAX_TEXT) + "…" : message,
        suppressed == 0 ? "" : "; " + suppressed + " more since the last such line");
  }
}
