package io.flexkv.tier;

import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.NumaMemory;
import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.util.List;

/**
 * Which NUMA nodes the pages of a pool come from. It has a say where the pages come on first use or
 * by prefault, so it is told to a segment before either. A kernel that refuses costs the placement
 * and one line in the log, not the pool.
 *
 * <p>One thread at a time maps and so applies it; what came of it is for all.
 */
public final class NumaPlacement {
  private static final System.Logger LOG = System.getLogger(NumaPlacement.class.getName());

  private final List<Integer> nodes;
  private volatile String outcome;

  private NumaPlacement(List<Integer> nodes, String outcome) {
    this.nodes = List.copyOf(nodes);
    this.outcome = outcome;
  }

  /**
   * Wherever the kernel takes them from: near the thread that touches them first.
   *
   * @param why for people, such as {@code off}
   */
  public static NumaPlacement anywhere(String why) {
    return new NumaPlacement(List.of(), "anywhere: " + why);
  }

  /**
   * From these while they have any.
   *
   * @param nodes one at least
   */
  public static NumaPlacement on(List<Integer> nodes) {
    if (nodes.isEmpty()) {
      throw new IllegalArgumentException("no NUMA node");
    }
    return new NumaPlacement(nodes, "nodes " + nodes);
  }

  /** Applies it to memory that has no pages yet. */
  void apply(MemorySegment segment) {
    if (nodes.isEmpty()) {
      return;
    }
    try {
      NumaMemory.prefer(segment.address(), segment.byteSize(), nodes);
    } catch (ErrnoException e) {
      String before = outcome;
      outcome = "anywhere: refused for nodes " + nodes;
      if (!before.equals(outcome)) {
        LOG.log(
            Level.WARNING,
            "host pool: its pages come from any NUMA node, nodes {0} are the GPUs'' ({1}); a"
                + " container needs CAP_SYS_NICE for it, numa_bind=off asks for nothing",
            nodes,
            e.getMessage());
      }
    }
  }

  /** What came of it, for {@code status}. */
  public String outcome() {
    return outcome;
  }
}
