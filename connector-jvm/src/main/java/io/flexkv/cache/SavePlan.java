package io.flexkv.cache;

import java.util.BitSet;
import org.jspecify.annotations.Nullable;

/** What a save asks for: to bring in blocks of a chain, beginning with {@link #firstBlock}. */
final class SavePlan {
  final int instanceId;
  final Namespace namespace;
  final RequestChain chain;
  final long jobId;
  final int group;
  final int firstBlock;
  final int[] gpuBlocks;
  final long[] generations;
  final long now;

  /** Parts whose go came before the plan, or null. */
  final @Nullable BitSet gone;

  SavePlan(
      int instanceId,
      Namespace namespace,
      RequestChain chain,
      long jobId,
      int group,
      int firstBlock,
      int[] gpuBlocks,
      long[] generations,
      long now,
      @Nullable BitSet gone) {
    this.instanceId = instanceId;
    this.namespace = namespace;
    this.chain = chain;
    this.jobId = jobId;
    this.group = group;
    this.firstBlock = firstBlock;
    this.gpuBlocks = gpuBlocks;
    this.generations = generations;
    this.now = now;
    this.gone = gone;
  }
}
