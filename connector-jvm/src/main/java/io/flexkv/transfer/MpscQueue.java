package io.flexkv.transfer;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReferenceArray;
import org.jspecify.annotations.Nullable;

/**
 * A bounded queue of many producers and one consumer, without locks.
 *
 * <p>Room is taken by {@link #reserve} and used by {@link #put}, which therefore always succeeds:
 * who takes room for the answer before it takes a job can never be unable to answer. A producer
 * claims a position and then publishes the element with release; the consumer stops at a position
 * that is claimed but not published yet.
 */
final class MpscQueue<E> {
  private final AtomicReferenceArray<@Nullable E> elements;
  private final int capacity;
  private final AtomicInteger reserved = new AtomicInteger();
  private final AtomicLong tail = new AtomicLong();
  private long head;

  MpscQueue(int capacity) {
    if (capacity < 1 || capacity > 1 << 24) {
      throw new IllegalArgumentException("queue capacity=" + capacity + ", wanted 1 to 2^24");
    }
    this.capacity = capacity;
    this.elements = new AtomicReferenceArray<>(capacity);
  }

  /** Takes room for one element; false if there is none. */
  boolean reserve() {
    if (reserved.incrementAndGet() > capacity) {
      reserved.decrementAndGet();
      return false;
    }
    return true;
  }

  /** Gives back room that will not be used. */
  void cancel() {
    reserved.decrementAndGet();
  }

  /** Adds an element for which room was reserved. */
  void put(E element) {
    int at = (int) (tail.getAndIncrement() % capacity);
    if (!elements.compareAndSet(at, null, element)) {
      throw new IllegalStateException("put without reserve: capacity=" + capacity);
    }
  }

  /** Takes the oldest element, null if there is none. One thread only. */
  @Nullable E poll() {
    int at = (int) (head % capacity);
    E element = elements.getAcquire(at);
    if (element == null) {
      return null;
    }
    elements.setRelease(at, null);
    head++;
    reserved.decrementAndGet();
    return element;
  }

  /** Whether no room is taken: nothing is there, and nobody is about to put something. */
  boolean isUnused() {
    return reserved.get() == 0;
  }
}
