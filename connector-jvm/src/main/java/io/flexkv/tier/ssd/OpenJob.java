package io.flexkv.tier.ssd;

import java.util.BitSet;
import org.jspecify.annotations.Nullable;

/**
 * A job on its way: which of its blocks still may begin, how many are under way, and whether its
 * end has been told. Thread-safe; its lock is held for a few instructions.
 *
 * <p>A read that fails at block {@code i} goes on with the blocks before it and gives up those from
 * {@code i} on ({@link #limit}); a write that fails at a block goes on with all others. A job that
 * is stopped begins nothing more. It ends when nothing is under way and nothing more will begin, or
 * earlier by {@link #force}: then its end says that it is not drained, and one more event follows.
 */
final class OpenJob {
  /** Takes the events; must not block. */
  interface News {
    void progress(OpenJob job);

    void ended(OpenJob job, SsdEvent.Ended event);

    void drained(OpenJob job);
  }

  private final SsdJob job;
  private final News news;
  private final long directories;
  private final BitSet over;
  private int limit;
  private int underWay;
  private boolean stopped;
  private boolean told;
  private SsdEvent.@Nullable Outcome outcome;
  private @Nullable String cause;
  private long badSlot = SsdStore.FULL;

  /**
   * @param directories bit i: directory i has blocks of it
   */
  OpenJob(SsdJob job, News news, long directories) {
    this.job = job;
    this.news = news;
    this.directories = directories;
    this.limit = job.blocks();
    this.over = new BitSet(job.blocks());
  }

  SsdJob job() {
    return job;
  }

  boolean touches(int directory) {
    return (directories & 1L << directory) != 0;
  }

  /** A block is about to be accessed; false if nobody wants it any more. */
  synchronized boolean begin(int block) {
    if (stopped || block >= limit || over.get(block)) {
      return false;
    }
    underWay++;
    return true;
  }

  /** A block that was begun is read and verified, or stored. */
  void succeeded(int block) {
    boolean grew = job.markDone(block);
    synchronized (this) {
      over.set(block);
      underWay--;
      if (grew && !job.isWrite() && !told) {
        news.progress(this);
      }
      blockOver();
    }
  }

  /**
   * A block cannot be had.
   *
   * @param begun whether {@link #begin} had said yes
   * @param bad whether what was in its slot is gone: it did not verify, or cannot be read
   */
  synchronized void failed(int block, boolean begun, boolean bad, String why) {
    over.set(block);
    underWay -= begun ? 1 : 0;
    boolean first = job.isWrite() ? cause == null : block < limit;
    if (!stopped && first) {
      limit = job.isWrite() ? limit : block;
      outcome = SsdEvent.Outcome.FAILED;
      cause = why;
      badSlot = bad ? job.slot(block) : SsdStore.FULL;
    }
    if (begun || !told) {
      blockOver();
    }
  }

  private void blockOver() {
    if (!told) {
      endIfOver();
    } else if (underWay == 0) {
      news.drained(this);
    }
  }

  /** Nothing more begins; the end comes when nothing is under way. False if it has been told. */
  synchronized boolean stop(SsdEvent.Outcome how, String why) {
    if (told) {
      return false;
    }
    beginNothingMore(how, why);
    endIfOver();
    return true;
  }

  /** As {@link #stop}, and the end comes now, drained or not; false if it has come before. */
  synchronized boolean force(SsdEvent.Outcome how, String why) {
    if (told) {
      return false;
    }
    beginNothingMore(how, why);
    tell();
    return true;
  }

  /** What stopped it first counts. */
  private void beginNothingMore(SsdEvent.Outcome how, String why) {
    if (!stopped) {
      stopped = true;
      outcome = how;
      cause = why;
    }
  }

  private void endIfOver() {
    if (underWay == 0 && (stopped || over.nextClearBit(0) >= limit)) {
      tell();
    }
  }

  /** Told under the lock, so that a job's events keep their order. */
  private void tell() {
    told = true;
    SsdEvent.Outcome how = outcome == null ? SsdEvent.Outcome.DONE : outcome;
    news.ended(this, new SsdEvent.Ended(job, how, job.ready(), underWay == 0, badSlot, cause));
  }
}
