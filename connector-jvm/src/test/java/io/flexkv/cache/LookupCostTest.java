package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import java.lang.management.ManagementFactory;
import org.junit.jupiter.api.Test;

/** What a lookup costs. The time is printed, not judged: this machine may be busy. */
class LookupCostTest {
  private static final int BLOCKS = 512;
  private static final int CHAINS = 200;
  private static final int ROUNDS = 40;

  @Test
  void lookup_warm_allocatesNothing() {
    CoreFixture f = new CoreFixture(CHAINS * BLOCKS, 1);
    for (int chain = 1; chain <= CHAINS; chain++) {
      f.cached(chain, chain % 2 == 0 ? BLOCKS : BLOCKS / 3);
    }
    for (int chain = 1; chain <= CHAINS; chain++) {
      f.extend(chain, chain, BLOCKS);
    }
    ThreadMXBean thread = (ThreadMXBean) ManagementFactory.getThreadMXBean();
    long allocated = Long.MAX_VALUE;
    long found = 0;
    for (int round = 0; round < ROUNDS; round++) {
      long before = thread.getCurrentThreadAllocatedBytes();
      for (int chain = 1; chain <= CHAINS; chain++) {
        found += f.core.lookup(CoreFixture.ENGINE, chain, 0, 0, BLOCKS).servableBlocks();
      }
      allocated = Math.min(allocated, thread.getCurrentThreadAllocatedBytes() - before);
    }
    assertThat(found).isEqualTo((long) ROUNDS * CHAINS / 2 * (BLOCKS + BLOCKS / 3));
    // A whole round of lookups may not cost even a byte each; measuring itself costs a little.
    assertThat(allocated).isLessThan(CHAINS);
  }

  @Test
  void extendAndLookup_512Keys_isTimed() {
    CoreFixture f = new CoreFixture(CHAINS * BLOCKS, 1);
    byte[][] hashes = new byte[CHAINS + 1][];
    for (int chain = 1; chain <= CHAINS; chain++) {
      f.cached(chain, BLOCKS);
      hashes[chain] = CoreFixture.hashes(chain, 0, BLOCKS);
    }
    long best = Long.MAX_VALUE;
    for (int round = 0; round < ROUNDS; round++) {
      long start = System.nanoTime();
      for (int chain = 1; chain <= CHAINS; chain++) {
        f.core.extendChain(
            CoreFixture.ENGINE, chain, 0, hashes[chain], CoreFixture.HASH_BYTES, BLOCKS);
        LookupResult found = f.core.lookup(CoreFixture.ENGINE, chain, 0, 0, BLOCKS);
        assertThat(found.servableBlocks() == BLOCKS).isTrue();
        f.core.endRequest(CoreFixture.ENGINE, chain);
      }
      best = Math.min(best, System.nanoTime() - start);
    }
    System.out.printf(
        "extend + lookup + end of %d keys over %d blocks: %.1f us%n",
        BLOCKS, CHAINS * BLOCKS, best / 1e3 / CHAINS);
    assertThat(f.core.stats().hits()).isEqualTo((long) ROUNDS * CHAINS);
  }
}
