package io.flexkv.tier.ssd;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Accesses by urgency. Payload writes never hold more than their share of the places under way, so
 * that a live read finds one soon. Thread-safe; its lock is held for a few instructions.
 *
 * <p>Its length is bounded by who submits (a job is refused rather than queued).
 */
final class IoQueue {
  private final Map<BlockOp.Urgency, Deque<BlockOp>> waiting = new EnumMap<>(BlockOp.Urgency.class);
  private final int maxWrites;
  private int writesUnderWay;
  private boolean closed;

  IoQueue(int maxWrites) {
    this.maxWrites = maxWrites;
    for (BlockOp.Urgency urgency : BlockOp.Urgency.values()) {
      waiting.put(urgency, new ArrayDeque<>());
    }
  }

  /** False if closed. */
  synchronized boolean offer(BlockOp op) {
    if (closed) {
      return false;
    }
    of(op.urgency()).add(op);
    notify();
    return true;
  }

  private Deque<BlockOp> of(BlockOp.Urgency urgency) {
    return java.util.Objects.requireNonNull(waiting.get(urgency));
  }

  /** The most urgent access that may begin now, or null. Pair with {@link #finished}. */
  synchronized @Nullable BlockOp poll() {
    for (BlockOp.Urgency urgency : BlockOp.Urgency.values()) {
      if (urgency == BlockOp.Urgency.WRITE && writesUnderWay == maxWrites) {
        continue;
      }
      BlockOp op = of(urgency).poll();
      if (op != null) {
        writesUnderWay += urgency == BlockOp.Urgency.WRITE ? 1 : 0;
        return op;
      }
    }
    return null;
  }

  /** As {@link #poll}, waits for one; null once closed. */
  synchronized @Nullable BlockOp take() {
    boolean interrupted = false;
    try {
      while (true) {
        BlockOp op = poll();
        if (op != null || closed) {
          return op;
        }
        try {
          wait();
        } catch (InterruptedException e) {
          interrupted = true;
        }
      }
    } finally {
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  /** An access that {@link #poll} gave out is over. */
  synchronized void finished(BlockOp op) {
    if (op.urgency() == BlockOp.Urgency.WRITE) {
      writesUnderWay--;
      notify();
    }
  }

  /** Takes everything that waits. */
  synchronized List<BlockOp> drain() {
    List<BlockOp> all = new ArrayList<>();
    for (Deque<BlockOp> queue : waiting.values()) {
      all.addAll(queue);
      queue.clear();
    }
    return all;
  }

  synchronized void close() {
    closed = true;
    notifyAll();
  }

  synchronized boolean closed() {
    return closed;
  }
}
