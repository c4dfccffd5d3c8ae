package io.flexkv.transfer;

/**
 * The block-generation table of an instance. The scheduler raises a block's counter before anything
 * of the new owner can be written into it; so a copy is the old owner's bytes exactly if the
 * counter, read <em>after</em> the copy was seen complete, is still the planned one.
 */
@FunctionalInterface
public interface BlockGenerationReader {
  /**
   * The counter of a block now, read with acquire.
   *
   * @throws IllegalStateException if the table is unmapped: the copy then counts as stale
   */
  long current(int gpuBlock);
}
