package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.HASH_BYTES;
import static io.flexkv.cache.CoreFixture.hashes;
import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;

class ChainTest {
  private final CoreFixture f =
      new CoreFixture(8, 1, CacheConfig.defaults().withChains(100, 3, 150));

  private boolean extend(long request, int first, int count) {
    return f.core.extendChain(ENGINE, request, first, hashes(1, first, count), HASH_BYTES, count);
  }

  private int known(long request) {
    return f.core.lookup(ENGINE, request, 0, 0, 1).chainBlocks();
  }

  @Test
  void extendChain_overlapWithEqualHashes_isIdempotent() {
    assertThat(extend(1, 0, 10)).isTrue();
    assertThat(extend(1, 0, 10)).isTrue();
    assertThat(extend(1, 4, 10)).isTrue();
    assertThat(extend(1, 14, 0)).isTrue();
    assertThat(known(1)).isEqualTo(14);
    assertThat(f.core.stats().chainBlocks()).isEqualTo(14);
  }

  @Test
  void extendChain_gap_dropsTheChain() {
    extend(1, 0, 10);
    assertThat(extend(1, 11, 2)).isFalse();
    assertThat(known(1)).isZero();
    assertThat(f.core.stats().chains()).isZero();
    assertThat(extend(1, 0, 2)).isTrue();
  }

  @Test
  void extendChain_otherHashInTheOverlap_dropsChainAndLease() {
    f.cached(1, 4);
    extend(1, 0, 4);
    f.core.lookup(ENGINE, 1, 0, 0, 4);
    assertThat(f.core.stats().leases()).isEqualTo(1);
    byte[] wrong = hashes(1, 2, 3);
    wrong[2 * HASH_BYTES - 1] ^= 1;
    assertThat(f.core.extendChain(ENGINE, 1, 2, wrong, HASH_BYTES, 3)).isFalse();
    assertThat(known(1)).isZero();
    assertThat(f.core.stats().leases()).isZero();
  }

  @Test
  void extendChain_beyondALimit_isRefused() {
    assertThat(extend(1, 0, 101)).as("blocks a chain").isFalse();
    assertThat(extend(1, 0, 100)).isTrue();
    assertThat(extend(2, 0, 51)).as("blocks of all chains").isFalse();
    assertThat(extend(2, 0, 50)).isTrue();
    f.core.endRequest(ENGINE, 1);
    assertThat(extend(3, 0, 1)).isTrue();
    assertThat(extend(4, 0, 1)).isTrue();
    assertThat(extend(5, 0, 1)).as("chains an instance").isFalse();
    assertThat(f.core.stats().chainBlocks()).isEqualTo(52);
  }

  @Test
  void extendChain_malformed_isRefused() {
    assertThat(f.core.extendChain(ENGINE, 1, 0, new byte[64], 15, 1)).isFalse();
    assertThat(f.core.extendChain(ENGINE, 1, 0, new byte[65], 65, 1)).isFalse();
    assertThat(f.core.extendChain(ENGINE, 1, 0, new byte[63], 32, 2)).isFalse();
    assertThat(f.core.extendChain(ENGINE, 1, -1, new byte[64], 32, 2)).isFalse();
    assertThat(f.core.extendChain(ENGINE, 1, 0, new byte[64], 32, -1)).isFalse();
    assertThat(f.core.extendChain(ENGINE, 1, Integer.MAX_VALUE, new byte[64], 32, 2)).isFalse();
    assertThat(f.core.extendChain(77, 1, 0, new byte[64], 32, 2)).as("instance").isFalse();
    assertThat(f.core.stats().chains()).isZero();
  }

  @Test
  void extendChain_nativeSegmentAtAnOffset_isTheSame() {
    f.cached(1, 4);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment segment = arena.allocate(5 + 4 * HASH_BYTES, 1);
      MemorySegment.copy(MemorySegment.ofArray(hashes(1, 0, 4)), 0, segment, 5, 4L * HASH_BYTES);
      assertThat(f.core.extendChain(ENGINE, 1, 0, segment, 5, HASH_BYTES, 4)).isTrue();
    }
    assertThat(f.core.lookup(ENGINE, 1, 0, 0, 4).servableBlocks()).isEqualTo(4);
  }
}
