package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * A reset on its way to all directories. One that has it is enough: a directory's contents count
 * only where all its members are there, and they take the greatest generation of all. Thread-safe.
 */
final class PendingReset {
  private final DirectoryMeta.Digest namespace;
  private final int generation;
  private final long deadlineNanos;
  private final Consumer<SsdEvent> news;
  private int awaited;
  private boolean durable;
  private boolean told;
  private @Nullable String cause;

  PendingReset(
      DirectoryMeta.Digest namespace,
      int generation,
      int awaited,
      long deadlineNanos,
      Consumer<SsdEvent> news) {
    this.namespace = namespace;
    this.generation = generation;
    this.awaited = awaited;
    this.deadlineNanos = deadlineNanos;
    this.news = news;
  }

  /** A directory has noted it (0), or cannot. */
  synchronized void answered(int errno) {
    awaited--;
    durable |= errno == 0;
    if (errno != 0) {
      cause = Errno.describe(errno);
    }
    if (awaited <= 0) {
      tell();
    }
  }

  /** Tells what there is if it has taken too long; says whether it is over. */
  synchronized boolean over(long nanos) {
    if (!told && (awaited <= 0 || nanos - deadlineNanos > 0)) {
      if (awaited > 0 && cause == null) {
        cause = "a directory does not answer";
      }
      tell();
    }
    return told;
  }

  private void tell() {
    if (!told) {
      told = true;
      String why = durable ? null : cause == null ? "no directory is left" : cause;
      news.accept(new SsdEvent.ResetDone(namespace.hi(), namespace.lo(), generation, durable, why));
    }
  }
}
