package io.flexkv.transfer;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.VarHandle;
import org.jspecify.annotations.Nullable;

/**
 * The word by which a worker takes a load back: a u64 in its session file that it sets to the job's
 * id. Read with acquire between slices.
 *
 * @param words the file's mapping, null where no word exists (a save)
 * @param offset of the word in it, a multiple of 8
 */
public record RevokeWord(@Nullable MemorySegment words, long offset) {
  /** No word: the job can be revoked only by {@link Mover#revoke}. */
  public static final RevokeWord NONE = new RevokeWord(null, 0);

  private static final VarHandle WORD = ValueLayout.JAVA_LONG.varHandle().withInvokeExactBehavior();

  public RevokeWord {
    if (words != null && (offset < 0 || offset % 8 != 0 || offset > words.byteSize() - 8)) {
      throw new IllegalArgumentException(
          "revoke word at %d of %d bytes".formatted(offset, words.byteSize()));
    }
  }

  /** Whether the worker has taken this job back; also true once the session's file is unmapped. */
  boolean revokes(long jobId) {
    if (words == null) {
      return false;
    }
    try {
      return (long) WORD.getAcquire(words, offset) == jobId;
    } catch (IllegalStateException unmapped) {
      return true;
    }
  }
}
