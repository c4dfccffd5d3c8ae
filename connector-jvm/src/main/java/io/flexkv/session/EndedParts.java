package io.flexkv.session;

import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Parts of plans that never reached the cache core (their instance was not ready), so that their
 * {@code Go} can be answered when it comes. Bounded: the oldest is forgotten, and its {@code Go},
 * if it ever comes, waits for the cache core's time limit. Cache thread only.
 */
final class EndedParts {
  private final Map<PartJob.Key, Integer> statuses;

  EndedParts(int limit) {
    statuses =
        new LinkedHashMap<>() {
          private static final long serialVersionUID = 1L;

          @Override
          protected boolean removeEldestEntry(Map.Entry<PartJob.Key, Integer> eldest) {
            return size() > limit;
          }
        };
  }

  void put(PartJob.Key key, int status) {
    statuses.put(key, status);
  }

  /** The status of the part, which is forgotten; null if it has not ended. */
  @Nullable Integer take(PartJob.Key key) {
    return statuses.remove(key);
  }

  /** Forgets all parts of a scheduler session's jobs. */
  void forgetSession(int sessionId) {
    statuses
        .keySet()
        .removeIf(key -> io.flexkv.protocol.Protocol.sessionOfJob(key.jobId()) == sessionId);
  }

  int size() {
    return statuses.size();
  }
}
