package io.flexkv.session;

import io.flexkv.device.DeviceMemory;
import io.flexkv.device.FenceRing;
import io.flexkv.transfer.Mover;
import java.util.concurrent.atomic.AtomicBoolean;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A rank's memory, opened: its layout, its events and its mover. Made by the thread of its request,
 * then the cache thread's.
 */
final class Registration {
  private static final Logger LOG = LoggerFactory.getLogger(Registration.class);

  /** How long copies have to end once nobody wants them any more. */
  static final long DRAIN_NANOS = 5_000_000_000L;

  final String name;
  final DeviceMemory memory;
  final FenceRing fences;
  final Mover mover;

  /** Every rank of its instance holds the same bytes (latent attention). */
  final boolean sameOnAllRanks;

  /** Proofs that run. */
  final MemoryUses uses = new MemoryUses();

  /** The pattern was read and was right; the pattern was written. The proof's thread. */
  volatile boolean provedRead;

  volatile boolean provedWrite;

  /** The worker trusts it. Cache thread. */
  boolean confirmed;

  private final AtomicBoolean closing = new AtomicBoolean();

  Registration(
      String name,
      DeviceMemory memory,
      FenceRing fences,
      Mover mover,
      boolean sameOnAllRanks,
      boolean provedBefore) {
    this.name = name;
    this.memory = memory;
    this.fences = fences;
    this.mover = mover;
    this.sameOnAllRanks = sameOnAllRanks;
    this.provedRead = provedBefore;
    this.provedWrite = provedBefore;
  }

  String fingerprint() {
    return memory.layout().fingerprint();
  }

  long partBytes() {
    return memory.layout().partBytes();
  }

  /**
   * Stops the mover, which drains its copies, and proofs likewise, and closes the memory; on a
   * thread of its own, since a device may take its time. Every job still gets its completion.
   */
  void closeLater() {
    closeLater(DRAIN_NANOS);
  }

  /** As the other, with a limit of its own after which copies are reported as not drained. */
  void closeLater(long drainNanos) {
    uses.finish();
    if (closing.compareAndSet(false, true)) {
      Thread.ofPlatform().daemon().name("flexkv-close-" + name).start(() -> close(drainNanos));
    }
  }

  private void close(long drainNanos) {
    if (!drain(drainNanos)) {
      return;
    }
    fences.close();
    if (!uses.awaitEnd()) {
      LOG.error("{}: copies of a proof will not be known to have ended, it stays mapped", name);
      return;
    }
    memory.close();
    LOG.info("{}: memory closed", name);
  }

  private boolean drain(long drainNanos) {
    if (mover.stop(drainNanos)) {
      return true;
    }
    LOG.error(
        "{}: the device did not end its copies within {} s; until it does its memory stays mapped"
            + " and the slots of these copies stay taken",
        name,
        drainNanos / 1_000_000_000);
    if (mover.awaitDrained()) {
      LOG.warn("{}: the device has ended its copies after all", name);
      return true;
    }
    LOG.error("{}: its copies will not be known to have ended before this process ends", name);
    return false;
  }
}
