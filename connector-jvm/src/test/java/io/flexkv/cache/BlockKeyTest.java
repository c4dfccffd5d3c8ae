package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;

class BlockKeyTest {
  private final byte[] hash = new byte[40];

  BlockKeyTest() {
    new Random(3).nextBytes(hash);
  }

  @Test
  void of_anyInputChanged_isAnotherKey() {
    BlockKey key = BlockKey.of(1, 2, 3, 4, hash, 8, 32);
    assertThat(BlockKey.of(1, 2, 3, 4, hash, 8, 32)).isEqualTo(key);
    assertThat(BlockKey.of(9, 2, 3, 4, hash, 8, 32)).isNotEqualTo(key);
    assertThat(BlockKey.of(1, 9, 3, 4, hash, 8, 32)).isNotEqualTo(key);
    assertThat(BlockKey.of(1, 2, 9, 4, hash, 8, 32)).isNotEqualTo(key);
    assertThat(BlockKey.of(1, 2, 3, 9, hash, 8, 32)).isNotEqualTo(key);
    hash[39] ^= 1;
    assertThat(BlockKey.of(1, 2, 3, 4, hash, 8, 32)).isNotEqualTo(key);
  }

  @Test
  void of_segmentOrLongerHashWithTheSameEnd_isTheSameKey() {
    BlockKey key = BlockKey.of(1, 2, 3, 4, hash, 8, 32);
    assertThat(BlockKey.of(1, 2, 3, 4, MemorySegment.ofArray(hash), 8, 32)).isEqualTo(key);
    assertThat(BlockKey.of(1, 2, 3, 4, hash, 24, 16)).isEqualTo(key);
  }

  @Test
  void of_hashTooShortOrTooLong_namesBothBounds() {
    assertThatThrownBy(() -> BlockKey.of(1, 2, 3, 4, hash, 0, 15))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("block hash of 15 bytes, expected 16 to 64");
    assertThatThrownBy(() -> BlockKey.of(1, 2, 3, 4, new byte[80], 0, 65))
        .hasMessageContaining("65");
    assertThatThrownBy(() -> BlockKey.of(1, 2, 3, 4, hash, 30, 16))
        .isInstanceOf(IndexOutOfBoundsException.class);
  }

  @Test
  void of_neighbouringInputs_flipHalfOfTheBits() {
    long[] flips = new long[2];
    int samples = 0;
    for (int bit = 0; bit < 128; bit++) {
      byte[] other = hash.clone();
      other[24 + bit / 8] ^= (byte) (1 << (bit % 8));
      BlockKey a = BlockKey.of(0, 0, 0, 0, hash, 24, 16);
      BlockKey b = BlockKey.of(0, 0, 0, 0, other, 24, 16);
      flips[0] += Long.bitCount(a.hi() ^ b.hi());
      flips[1] += Long.bitCount(a.lo() ^ b.lo());
      samples++;
    }
    assertThat(flips[0] / (double) samples).isBetween(29.0, 35.0);
    assertThat(flips[1] / (double) samples).isBetween(29.0, 35.0);
  }

  @Test
  void of_smallNumbersEverywhere_neverCollides() {
    Set<BlockKey> keys = new HashSet<>();
    int n = 0;
    byte[] zero = new byte[16];
    for (int digest = 0; digest < 8; digest++) {
      for (int generation = 0; generation < 16; generation++) {
        for (int group = 0; group < 16; group++) {
          for (int last = 0; last < 16; last++) {
            Arrays.fill(zero, (byte) 0);
            zero[15] = (byte) last;
            keys.add(BlockKey.of(digest % 2, digest / 2, generation, group, zero, 0, 16));
            n++;
          }
        }
      }
    }
    assertThat(keys).hasSize(n);
  }
}
