package io.flexkv.tier.ssd;

import io.flexkv.tier.ssd.RecoverySink.Survivor;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/**
 * Survivors that came before their parents. Bounded: those that wait longest give way. One thread.
 */
final class WaitingSurvivors {
  /** Heap of one, about, besides its event data. */
  private static final int BYTES = 400;

  private final long maxBytes;
  private final Consumer<Survivor> spilled;

  /** By the digest of the parent's identity. */
  private final Map<Long, List<Survivor>> byParent = new LinkedHashMap<>();

  private long bytes;

  /**
   * @param maxBytes of heap that they may take
   * @param spilled takes those that give way
   */
  WaitingSurvivors(long maxBytes, Consumer<Survivor> spilled) {
    this.maxBytes = maxBytes;
    this.spilled = spilled;
  }

  boolean isEmpty() {
    return byParent.isEmpty();
  }

  private static long bytesOf(Survivor survivor) {
    return (long) BYTES + survivor.header().eventData().length;
  }

  void add(long parent, Survivor survivor) {
    byParent.computeIfAbsent(parent, digest -> new ArrayList<>(1)).add(survivor);
    bytes += bytesOf(survivor);
    Iterator<List<Survivor>> oldest = byParent.values().iterator();
    while (bytes > maxBytes) {
      List<Survivor> siblings = oldest.next();
      oldest.remove();
      siblings.forEach(this::spill);
    }
  }

  private void spill(Survivor survivor) {
    bytes -= bytesOf(survivor);
    spilled.accept(survivor);
  }

  /** Takes what waits for a block, and what waits for that, parents first. */
  void release(long parent, Deque<Survivor> into) {
    Deque<Long> parents = new ArrayDeque<>();
    parents.add(parent);
    for (Long next; (next = parents.poll()) != null; ) {
      List<Survivor> children = byParent.remove(next);
      if (children != null) {
        for (Survivor child : children) {
          bytes -= bytesOf(child);
          into.add(child);
          parents.add(child.header().identity().digest());
        }
      }
    }
  }

  /** Takes all of them. */
  void spillAll() {
    byParent.values().forEach(siblings -> siblings.forEach(this::spill));
    byParent.clear();
  }
}
