package io.flexkv.cache;

/**
 * How many leading blocks of a load are in their host slots already, while a slower tier still
 * brings the rest. The cache thread raises it; the movers of all ranks read it between slices and
 * copy nothing beyond it.
 *
 * <p>One volatile word: who reads that block i is available sees its bytes. Once cut it never
 * changes again: what lies beyond is not the load's any more, its slots may be anybody's.
 */
public final class AvailableBlocks {
  /** For loads whose blocks are all there. */
  public static final AvailableBlocks ALL = new AvailableBlocks(Integer.MAX_VALUE);

  /** The count; its complement once cut. */
  private volatile int word;

  AvailableBlocks(int count) {
    word = count;
  }

  /** Leading blocks that may be copied. Any thread. */
  public int count() {
    int now = word;
    return now < 0 ? ~now : now;
  }

  /** Whether no more will come than {@link #count} says from now on. Any thread. */
  public boolean isCut() {
    return word < 0;
  }

  /** Cache thread. */
  void raiseTo(int count) {
    int now = word;
    if (now < 0 || count < now) {
      throw new IllegalStateException("%d blocks available, was %d".formatted(count, now));
    }
    word = count;
  }

  /** Cache thread; idempotent. */
  void cut() {
    int now = word;
    if (now >= 0) {
      word = ~now;
    }
  }
}
