package io.flexkv.transfer;

import java.lang.invoke.VarHandle;
import java.util.BitSet;

/**
 * What a save must find after its copies: one counter a block, in the order of the job's blocks.
 *
 * @param reader the instance's table
 * @param expected the counters that the plan carried; kept, not copied
 */
@SuppressWarnings("ArrayRecordComponent") // one array a job, made for it and never changed
public record GenerationCheck(BlockGenerationReader reader, long[] expected) {
  /** Clears from {@code ok} every block whose counter is not the expected one any more. */
  void clearStale(int[] gpuBlocks, BitSet ok) {
    // The copies were seen complete by this thread; no counter may be read before that.
    VarHandle.fullFence();
    try {
      for (int i = ok.nextSetBit(0); i >= 0; i = ok.nextSetBit(i + 1)) {
        if (reader.current(gpuBlocks[i]) != expected[i]) {
          ok.clear(i);
        }
      }
    } catch (RuntimeException unreadable) {
      ok.clear(); // unmapped with the session, or too short for the block: nothing is proved
    }
  }
}
