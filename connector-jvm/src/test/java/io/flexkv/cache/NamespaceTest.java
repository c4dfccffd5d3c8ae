package io.flexkv.cache;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class NamespaceTest {
  private final CoreFixture f = new CoreFixture(8, 2);

  @Test
  void openNamespace_sameDigest_isTheSameHandle() {
    assertThat(f.core.openNamespace(7, 7, 2, new long[] {10, 10})).isEqualTo(f.namespace);
    assertThat(f.core.openNamespace(7, 8, 2, new long[] {10, 10})).isNotEqualTo(f.namespace);
  }

  @Test
  void openNamespace_sameDigestOtherSizes_namesBoth() {
    assertThatThrownBy(() -> f.core.openNamespace(7, 7, 2, new long[] {10, 12}))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("[10, 10]")
        .hasMessageContaining("[10, 12]");
  }

  @Test
  void openNamespace_senselessSizes_isRefused() {
    assertThatThrownBy(() -> f.core.openNamespace(1, 1, 2, new long[] {10}))
        .hasMessageContaining("2 parts with 1 sizes");
    assertThatThrownBy(() -> f.core.openNamespace(1, 1, 1, new long[] {0}))
        .hasMessageContaining("positive");
    assertThatThrownBy(() -> f.core.openNamespace(1, 1, 0, new long[0]))
        .isInstanceOf(IllegalArgumentException.class);
  }

  @Test
  void openInstance_unknownNamespaceOrAnother_isRefused() {
    assertThatThrownBy(() -> f.core.openInstance(5, 99)).hasMessageContaining("namespace 99");
    int other = f.core.openNamespace(9, 9, 1, new long[] {10});
    assertThatThrownBy(() -> f.core.openInstance(CoreFixture.ENGINE, other))
        .hasMessageContaining("is open in namespace");
    f.core.openInstance(CoreFixture.ENGINE, f.namespace);
  }

  @Test
  void lookup_otherNamespaceSameHashes_findsNothing() {
    f.cached(1, 4);
    int other = f.core.openNamespace(9, 9, 2, new long[] {10, 10});
    f.core.openInstance(2, other);
    f.core.extendChain(2, 1, 0, CoreFixture.hashes(1, 0, 4), CoreFixture.HASH_BYTES, 4);
    assertThat(f.core.lookup(2, 1, 0, 0, 4).residentBlocks()).isZero();
  }

  @Test
  void lookup_secondInstanceOfTheNamespace_sharesBlocks() {
    f.cached(1, 4);
    f.core.openInstance(2, f.namespace);
    f.core.extendChain(2, 1, 0, CoreFixture.hashes(1, 0, 4), CoreFixture.HASH_BYTES, 4);
    assertThat(f.core.lookup(2, 1, 0, 0, 4).servableBlocks()).isEqualTo(4);
  }

  @Test
  void lookup_otherGroup_findsNothing() {
    f.cached(1, 4);
    f.extend(1, 1, 4);
    assertThat(f.core.lookup(CoreFixture.ENGINE, 1, 1, 0, 4).residentBlocks()).isZero();
    assertThat(f.core.lookup(CoreFixture.ENGINE, 1, -1, 0, 4).chainBlocks()).isZero();
    assertThat(f.core.lookup(CoreFixture.ENGINE, 1, 64, 0, 4).chainBlocks()).isZero();
  }
}
