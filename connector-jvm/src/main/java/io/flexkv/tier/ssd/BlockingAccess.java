package io.flexkv.tier.ssd;

import java.util.concurrent.CountDownLatch;

/** An access that its caller waits for: headers and descriptions, on threads that may wait. */
final class BlockingAccess extends BlockOp {
  private final CountDownLatch end = new CountDownLatch(1);
  private volatile int errno;

  private BlockingAccess(
      Urgency urgency, boolean write, int file, long offset, long address, int length) {
    super(urgency, write, file, offset, address, length);
  }

  /** Carries it out, however long the disk takes; returns 0 or an error number. */
  static int run(
      BlockIo io, Urgency urgency, boolean write, int file, long offset, long address, int length) {
    return begin(io, urgency, write, file, offset, address, length).await();
  }

  /** Hands it over; {@link #await} must be called before its memory may go. */
  static BlockingAccess begin(
      BlockIo io, Urgency urgency, boolean write, int file, long offset, long address, int length) {
    BlockingAccess access = new BlockingAccess(urgency, write, file, offset, address, length);
    io.submit(access);
    return access;
  }

  /** Waits for its end, however long the disk takes; returns 0 or an error number. */
  int await() {
    boolean interrupted = false;
    while (true) {
      try {
        end.await();
        break;
      } catch (InterruptedException e) {
        interrupted = true; // the disk still has the memory
      }
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
    return errno;
  }

  @Override
  boolean begin() {
    return true;
  }

  @Override
  void done(int result) {
    errno = result;
    end.countDown();
  }
}
