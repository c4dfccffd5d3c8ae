package io.flexkv.session;

import java.util.ArrayList;
import java.util.List;
import java.util.function.BooleanSupplier;

/**
 * Who uses the memory of a rank beside its mover: proofs of its layout, on threads of their own.
 * The memory is closed only once none does, and none begins once that is to be.
 *
 * <p>Any thread.
 */
final class MemoryUses {
  private final List<BooleanSupplier> late = new ArrayList<>();
  private int uses;
  private volatile boolean over;

  /** Begins one; false if the memory is about to be closed. */
  synchronized boolean begin() {
    if (over) {
      return false;
    }
    uses++;
    return true;
  }

  /** Ends one. */
  synchronized void end() {
    if (uses == 0) {
      throw new IllegalStateException("a use of a rank's memory ended that had not begun");
    }
    uses--;
    notifyAll();
  }

  /**
   * Ends one of which copies may still touch the memory.
   *
   * @param awaitDrained waits, without limit, until none does; false: that will never be known
   */
  synchronized void end(BooleanSupplier awaitDrained) {
    late.add(awaitDrained);
    end();
  }

  /** None begins any more, and those that run are to end. */
  synchronized void finish() {
    over = true;
  }

  /** Whether those that run are to end. */
  boolean over() {
    return over;
  }

  /**
   * Waits until none runs and no copy of one touches the memory; after {@link #finish}. Without
   * limit, since a device may take its time.
   *
   * @return false if that will never be known: the memory must not be closed
   */
  boolean awaitEnd() {
    awaitNone();
    return late.stream().allMatch(BooleanSupplier::getAsBoolean);
  }

  private synchronized void awaitNone() {
    boolean interrupted = false;
    while (uses > 0) {
      try {
        wait();
      } catch (InterruptedException e) {
        interrupted = true; // the memory is not free because somebody is in a hurry
      }
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }
}
