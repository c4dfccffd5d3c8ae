package io.flexkv.device;

/** Keeps the pool pinned, in the background. Thread-safe; no call but one waits for a driver. */
interface PoolPinner extends AutoCloseable {
  /** The pool has become larger or smaller. */
  void resized();

  /**
   * Waits until nothing beyond the pool's end is pinned: at the rate of the driver, behind copies.
   * Ends early where the driver refuses: then that stays pinned.
   */
  void awaitUnpinned() throws InterruptedException;

  /** Ends after the piece in hand, and does not wait for that. What is pinned stays so. */
  @Override
  void close();
}
