package io.flexkv.transfer;

import io.flexkv.device.DeviceException;
import io.flexkv.device.FenceRing;
import java.lang.System.Logger.Level;
import java.util.Arrays;

/**
 * Fences of jobs that ended before them: the worker still wants to hear when they are reached, or
 * it could never record those events anew. Of each event only the highest sequence is kept, for
 * whoever has passed that has passed the earlier ones too; so there are at most as many as events.
 * One thread only.
 */
final class AbandonedFences {
  private static final System.Logger LOG = System.getLogger(AbandonedFences.class.getName());

  private final FenceRing fences;

  /** By event: the sequence that is waited for, 0 = none. */
  private final long[] sequences;

  private int count;

  AbandonedFences(FenceRing fences) {
    this.fences = fences;
    this.sequences = new long[fences.count()];
  }

  /** Keeps a fence that was asked and not reached; so its event exists, its sequence is above 0. */
  void add(FencePoint fence) {
    if (sequences[fence.index()] == 0) {
      count++;
    }
    sequences[fence.index()] = Math.max(sequences[fence.index()], fence.sequence());
  }

  boolean isEmpty() {
    return count == 0;
  }

  /**
   * Asks for each once; returns how many are waited for no more. One that can never be asked again
   * is among them.
   *
   * @throws DeviceException GONE: no event can be asked any more
   */
  int poll() throws DeviceException {
    int before = count;
    for (int index = 0; count > 0 && index < sequences.length; index++) {
      if (sequences[index] != 0 && isOver(index)) {
        sequences[index] = 0;
        count--;
      }
    }
    return before - count;
  }

  private boolean isOver(int index) throws DeviceException {
    try {
      return fences.reached(index, sequences[index]);
    } catch (DeviceException e) {
      if (e.kind() == DeviceException.Kind.GONE) {
        throw e;
      }
      LOG.log(Level.WARNING, "fence {0} is not watched any more: {1}", index, e.getMessage());
      return true;
    }
  }

  /** Waits for none any more. */
  void clear() {
    Arrays.fill(sequences, 0);
    count = 0;
  }
}
