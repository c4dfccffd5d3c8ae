package io.flexkv.cache;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** The open save attempts by the small reference that their pending entries hold. */
final class AttemptTable {
  private final List<@Nullable SaveAttempt> byReference = new ArrayList<>();
  private final Deque<Integer> free = new ArrayDeque<>();

  /** Attempts that lost their last block and were not looked at since. */
  private final Deque<SaveAttempt> emptied = new ArrayDeque<>();

  int reserve() {
    Integer reference = free.poll();
    if (reference != null) {
      return reference;
    }
    byReference.add(null);
    return byReference.size() - 1;
  }

  void bind(SaveAttempt attempt) {
    byReference.set(attempt.reference, attempt);
  }

  void release(int reference) {
    byReference.set(reference, null);
    free.push(reference);
  }

  /** A block's entry goes. Returns whether its slot may be freed at once. */
  boolean drop(int reference, int block) {
    SaveAttempt attempt = byReference.get(reference);
    if (attempt == null) {
      throw new IllegalStateException("no save attempt has reference " + reference);
    }
    boolean idle = attempt.drop(block);
    if (attempt.alive() == 0) {
      emptied.add(attempt);
    }
    return idle;
  }

  @Nullable SaveAttempt pollEmptied() {
    return emptied.poll();
  }
}
