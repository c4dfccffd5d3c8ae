package io.flexkv.cache;

import static io.flexkv.cache.CoreFixture.ENGINE;
import static io.flexkv.cache.CoreFixture.SECOND;
import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class LookupTest {
  private final CoreFixture f = new CoreFixture(20, 1);

  @Test
  void lookup_noChain_answersZero() {
    f.cached(1, 4);
    LookupResult found = f.core.lookup(ENGINE, 1, 0, 0, 9);
    assertThat(found.chainBlocks()).isZero();
    assertThat(found.servableBlocks()).isZero();
    assertThat(found.leaseId()).isZero();
    assertThat(f.core.lookup(9, 1, 0, 0, 9).servableBlocks()).isZero();
  }

  @Test
  void lookup_everyBound_answersUpToIt() {
    f.cached(1, 6);
    f.extend(1, 1, 10);
    for (int first = 0; first < 10; first++) {
      for (int max = 0; max < 12; max++) {
        LookupResult found = f.core.lookup(ENGINE, 1, 0, first, max);
        int servable = Math.min(6, first + max);
        assertThat(found.servableBlocks()).isEqualTo(servable);
        assertThat(found.residentBlocks()).isEqualTo(6);
        assertThat(found.leaseId() > 0).isEqualTo(servable > first);
      }
    }
    assertThat(f.core.lookup(ENGINE, 1, 0, Integer.MAX_VALUE, Integer.MAX_VALUE).servableBlocks())
        .isEqualTo(6);
  }

  @Test
  void lookup_askedAgain_keepsTheLeaseAndExtendsIt() {
    f.cached(1, 6);
    f.extend(1, 1, 3);
    long lease = f.core.lookup(ENGINE, 1, 0, 0, 9).leaseId();
    f.extend(1, 1, 6);
    LookupResult deeper = f.core.lookup(ENGINE, 1, 0, 0, 9);
    assertThat(deeper.leaseId()).isEqualTo(lease).isPositive();
    assertThat(deeper.servableBlocks()).isEqualTo(6);
    assertThat(f.core.lookup(ENGINE, 1, 0, 0, 2).leaseId()).isEqualTo(lease);
    assertThat(f.core.stats().leases()).isEqualTo(1);
    f.extend(2, 1, 6);
    assertThat(f.core.lookup(ENGINE, 2, 0, 0, 9).leaseId()).isNotEqualTo(lease);
  }

  @Test
  void stats_aRequestAsksAgain_isCountedOnce() {
    f.cached(1, 6);
    f.extend(1, 1, 3);
    f.core.lookup(ENGINE, 1, 0, 0, 9);
    f.core.lookup(ENGINE, 1, 0, 2, 9);
    assertCounted(1, 1, 3);
    f.extend(1, 1, 6);
    f.core.lookup(ENGINE, 1, 0, 1, 9);
    assertCounted(1, 1, 5);
    f.extend(2, 2, 6);
    f.core.lookup(ENGINE, 2, 0, 0, 9);
    f.core.lookup(ENGINE, 2, 0, 0, 9);
    assertCounted(2, 1, 5);
    f.core.endRequest(ENGINE, 1);
    f.extend(1, 1, 6);
    f.core.lookup(ENGINE, 1, 0, 0, 9);
    assertCounted(3, 2, 11);
    f.core.lookup(ENGINE, 77, 0, 0, 9);
    assertCounted(3, 2, 11);
  }

  private void assertCounted(long requests, long hits, long blocks) {
    CacheStats told = f.core.stats();
    assertThat(told.lookups()).isEqualTo(requests);
    assertThat(told.hits()).isEqualTo(hits);
    assertThat(told.hitBlocks()).isEqualTo(blocks);
  }

  @Test
  void tick_leaseNotRefreshed_expiresAndUnpins() {
    CoreFixture g = new CoreFixture(4, 1);
    g.cached(1, 4);
    g.extend(1, 1, 4);
    g.core.lookup(ENGINE, 1, 0, 0, 9);
    g.now += 20 * SECOND;
    g.core.lookup(ENGINE, 1, 0, 0, 9);
    g.now += 20 * SECOND;
    g.core.tick();
    assertThat(g.core.stats().leases()).as("refreshed 20 s ago").isEqualTo(1);
    g.cached(2, 4);
    assertThat(g.servable(1, 4)).as("leased blocks stay").isEqualTo(4);
    g.now += 10 * SECOND;
    g.core.tick();
    assertThat(g.core.stats().leases()).isZero();
    g.cached(2, 4);
    assertThat(g.servable(2, 4)).isEqualTo(4);
  }

  @Test
  void endRequest_openLease_goes() {
    f.cached(1, 4);
    f.extend(1, 1, 4);
    f.core.lookup(ENGINE, 1, 0, 0, 9);
    f.core.endRequest(ENGINE, 1);
    assertThat(f.core.stats().leases()).isZero();
    assertThat(f.core.stats().chains()).isZero();
    f.core.endRequest(ENGINE, 1);
  }

  @Test
  void lookup_pendingBlocks_areResidentButNotServable() {
    f.cached(1, 2);
    f.extend(1, 1, 8);
    f.planSave(1, 2, 3);
    LookupResult found = f.core.lookup(ENGINE, 1, 0, 0, 9);
    assertThat(found.servableBlocks()).isEqualTo(2);
    assertThat(found.residentBlocks()).isEqualTo(5);
    assertThat(found.chainBlocks()).isEqualTo(8);
  }
}
