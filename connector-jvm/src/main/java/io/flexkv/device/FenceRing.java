package io.flexkv.device;

import java.util.concurrent.atomic.AtomicLongArray;

/**
 * The events of one rank, by which its worker says "everything before this point is done". Event i
 * is recorded again and again, each time with a higher sequence number; the worker records it anew
 * only after it was told that the sequence before was seen.
 *
 * <p>{@link #reached} remembers the highest sequence seen of each event, so a second job behind the
 * same fence does not ask an event that may stand for a later point by now. Any thread may call it.
 */
public final class FenceRing implements AutoCloseable {
  /** Asks the device about one event, without waiting. */
  public interface Query extends AutoCloseable {
    /** Whether the last record of event {@code index} is complete. */
    boolean complete(int index) throws DeviceException;

    @Override
    default void close() {}
  }

  /** Told once a sequence has been seen, by the thread that saw it. */
  @FunctionalInterface
  public interface Seen {
    void seen(int index, long sequence);
  }

  private final Query query;
  private final Seen onSeen;
  private final AtomicLongArray seen;

  /**
   * @param count how many events there are
   * @param onSeen writes the word by which the worker learns that it may record the event anew
   */
  public FenceRing(int count, Query query, Seen onSeen) {
    this.query = query;
    this.onSeen = onSeen;
    this.seen = new AtomicLongArray(count);
  }

  /** A ring of no events, for engines whose "go" means that everything is done already. */
  public static FenceRing none() {
    return new FenceRing(0, index -> true, (index, sequence) -> {});
  }

  /** How many events there are. */
  public int count() {
    return seen.length();
  }

  /**
   * Whether the point that is {@code sequence} of event {@code index} has been passed.
   *
   * @throws DeviceException COPY: there is no such event; GONE: the device is lost
   */
  public boolean reached(int index, long sequence) throws DeviceException {
    if (index < 0 || index >= seen.length()) {
      throw new DeviceException(
          DeviceException.Kind.COPY,
          "fence: event %d, the ring has %d".formatted(index, seen.length()));
    }
    if (seen.get(index) >= sequence) {
      return true;
    }
    if (!query.complete(index)) {
      return false;
    }
    long before = seen.getAndAccumulate(index, sequence, Math::max);
    if (before < sequence) {
      onSeen.seen(index, sequence);
    }
    return true;
  }

  @Override
  public void close() {
    query.close();
  }
}
