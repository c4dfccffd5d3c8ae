package io.flexkv.session;

/**
 * Who uses the memory of a rank beside its mover: proofs of its layout, on threads of their own.
 * The memory is closed only once none does, and none begins once that is to be.
 *
 * <p>Any thread. A use is bounded by its deadline, so waiting for the end of all is too.
 */
final class MemoryUses {
  private int uses;
  private boolean kept;
  private volatile boolean over;

  /** Begins one; false if the memory is about to be closed. */
  synchronized boolean begin() {
    if (over) {
      return false;
    }
    uses++;
    return true;
  }

  /**
   * Ends one.
   *
   * @param drained false: copies of it may still touch the memory, which is never closed then
   */
  synchronized void end(boolean drained) {
    if (uses == 0) {
      throw new IllegalStateException("a use of a rank's memory ended that had not begun");
    }
    uses--;
    kept |= !drained;
    notifyAll();
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
   * Waits until none runs; after {@link #finish}.
   *
   * @return whether the memory may be closed
   */
  synchronized boolean awaitEnd() {
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
    return !kept;
  }
}
