package io.flexkv.cache;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * How fast the engines of a namespace compute prompts, seen from the saves of prompts that are
 * computed in chunks. Time that other requests took in between counts too, hence a speed as it is
 * under the present load.
 *
 * <p>When a plan comes says little by itself: a chunk is saved in several plans, and an engine that
 * schedules ahead plans a chunk when the step before it has only begun. So (1) plans of a prompt
 * that come within {@value #JOINED_NANOS} ns are one. (2) The first of these joined plans brings
 * blocks along that were there before, and the time after it is that of whatever ran then: a prompt
 * is measured from its second to its last, by the blocks planned after the second. Each plan that
 * schedules ahead then stands for the chunk before it, of the same size. (3) It counts once, and if
 * that took {@value #MIN_NANOS} ns. (4) The median of the last few prompts counts, of some at
 * least. (5) A chunk is saved for each KV group by itself, so a prompt is measured in the group
 * that was planned first: the blocks of a group are those of all tokens, in whichever group.
 *
 * <p>Cache thread only.
 */
final class ComputeSpeed {
  /** Smaller joined plans are those of decoding requests, or of a prompt's end. */
  private static final int MIN_BLOCKS = 32;

  private static final long JOINED_NANOS = 5_000_000;
  private static final long MIN_NANOS = 20_000_000;
  private static final int SAMPLES = 9;
  private static final int ENOUGH = 3;
  private static final double NANOS = 1e9;

  private final @Nullable Prompt[] samples = new @Nullable Prompt[SAMPLES];
  private final double[] blocksPerSecond = new double[SAMPLES];
  private int count;

  /** What is known of the plans of one request. */
  static final class Prompt {
    private static final int NO_GROUP = -1;

    /** The group that counts. */
    private int group = NO_GROUP;

    /** Where its last plan ended, and when that came. */
    private int to;

    private long at;

    /** Joined plans so far, and where and when the last of them began. */
    private int joined;

    private int from;
    private long since;

    /** Where the second one ended, and when it began. */
    private int secondTo;

    private long secondAt;

    private void begin(int first, long now) {
      joined = 0;
      next(first, now);
    }

    private void next(int first, long now) {
      joined++;
      from = first;
      since = now;
    }

    private void add(int blocks, long now) {
      to += blocks;
      at = now;
      if (joined == 2) {
        secondTo = to;
        secondAt = since;
      }
    }

    private boolean tells() {
      return joined > 2 && to - from >= MIN_BLOCKS && since - secondAt >= MIN_NANOS;
    }

    private double blocksPerSecond() {
      return (to - secondTo) * NANOS / (since - secondAt);
    }
  }

  /** A save of blocks [first, first + blocks) of a chain is planned for a KV group. */
  void planned(RequestChain chain, int group, int first, int blocks, long now) {
    Prompt prompt = chain.prompt;
    if (prompt.group == Prompt.NO_GROUP) {
      prompt.group = group;
    } else if (prompt.group != group) {
      return;
    }
    if (first == 0 || first != prompt.to) {
      prompt.to = first;
      prompt.begin(first, now);
    } else if (now - prompt.at >= JOINED_NANOS) {
      if (prompt.to - prompt.from < MIN_BLOCKS) {
        prompt.begin(first, now);
      } else {
        prompt.next(first, now);
      }
    }
    prompt.add(blocks, now);
    if (prompt.tells()) {
      samples(prompt);
    }
  }

  /** Keeps what a prompt tells, in place of what it told before. */
  private void samples(Prompt prompt) {
    int place = Arrays.asList(samples).indexOf(prompt);
    if (place < 0) {
      place = count++ % SAMPLES;
      samples[place] = prompt;
    }
    blocksPerSecond[place] = prompt.blocksPerSecond();
  }

  /** 0 if it is not known. */
  double blocksPerSecond() {
    if (count < ENOUGH) {
      return 0;
    }
    double[] sorted = Arrays.copyOf(blocksPerSecond, Math.min(count, SAMPLES));
    Arrays.sort(sorted);
    return sorted[sorted.length / 2];
  }
}
