package io.flexkv.cache;

import java.util.ArrayList;
import java.util.BitSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Gos that came before their plan; bounded in number and time. */
final class ParkedGos {
  private record Parked(long jobId, BitSet parts, long since) {}

  /** In the order of arrival of each job's first go. */
  private final Map<Long, Parked> byJob = new LinkedHashMap<>();

  private final int max;
  private int size;

  ParkedGos(int max) {
    this.max = max;
  }

  int size() {
    return size;
  }

  /** Parks a go; false if there is no room. One that is parked already is left alone. */
  boolean park(long jobId, int part, long now) {
    Parked parked = byJob.get(jobId);
    if (parked != null && parked.parts.get(part)) {
      return true;
    }
    if (size == max) {
      return false;
    }
    if (parked == null) {
      parked = new Parked(jobId, new BitSet(), now);
      byJob.put(jobId, parked);
    }
    parked.parts.set(part);
    size++;
    return true;
  }

  /** Takes the parked parts of a job out; null if there are none. */
  @Nullable BitSet take(long jobId) {
    Parked parked = byJob.remove(jobId);
    if (parked == null) {
      return null;
    }
    size -= parked.parts.cardinality();
    return parked.parts;
  }

  /** Takes one parked go back; returns whether there was one. */
  boolean unpark(long jobId, int part) {
    Parked parked = byJob.get(jobId);
    if (parked == null || part < 0 || !parked.parts.get(part)) {
      return false;
    }
    parked.parts.clear(part);
    size--;
    if (parked.parts.isEmpty()) {
      byJob.remove(jobId);
    }
    return true;
  }

  /** Jobs whose first go has waited for too long. */
  List<Long> expired(long now, long parkedNanos) {
    List<Long> result = new ArrayList<>();
    Iterator<Parked> oldest = byJob.values().iterator();
    while (oldest.hasNext()) {
      Parked parked = oldest.next();
      if (now - parked.since < parkedNanos) {
        break;
      }
      result.add(parked.jobId);
    }
    return result;
  }
}
