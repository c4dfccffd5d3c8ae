package io.flexkv.cache;

import java.util.concurrent.TimeUnit;

/**
 * The limits of the cache core. Everything that a client can make grow has one.
 *
 * @param maxNamespaces namespaces that may be opened
 * @param maxInstances instances that may be open at the same time
 * @param maxGroups KV groups a namespace; group ids are below it
 * @param maxParts parts (ranks) a job; part numbers are below it
 * @param maxChainBlocks blocks in one request's chain
 * @param maxChainsPerInstance requests with a chain, per instance
 * @param maxChainBlocksTotal blocks in all chains together (16 bytes each)
 * @param maxOpenJobs jobs that are open at the same time
 * @param maxParkedGos gos that wait for their plan at the same time
 * @param maxEndedJobs ids of ended jobs that are remembered, so that late messages are ignored
 * @param maxForeignEvictionsPerPlan blocks of other sizes that one save plan may evict, when none
 *     of its own size can be
 * @param leaseNanos how long a lease lives after the last lookup that asked for it
 * @param planNanos how long a plan waits for the go of each part
 * @param parkedNanos how long a go waits for its plan
 */
public record CacheConfig(
    int maxNamespaces,
    int maxInstances,
    int maxGroups,
    int maxParts,
    int maxChainBlocks,
    int maxChainsPerInstance,
    long maxChainBlocksTotal,
    int maxOpenJobs,
    int maxParkedGos,
    int maxEndedJobs,
    int maxForeignEvictionsPerPlan,
    long leaseNanos,
    long planNanos,
    long parkedNanos) {

  /** Checks that every limit is positive. */
  public CacheConfig {
    positive("maxNamespaces", maxNamespaces);
    positive("maxInstances", maxInstances);
    positive("maxGroups", maxGroups);
    positive("maxParts", maxParts);
    positive("maxChainBlocks", maxChainBlocks);
    positive("maxChainsPerInstance", maxChainsPerInstance);
    positive("maxChainBlocksTotal", maxChainBlocksTotal);
    positive("maxOpenJobs", maxOpenJobs);
    positive("maxParkedGos", maxParkedGos);
    positive("maxEndedJobs", maxEndedJobs);
    positive("maxForeignEvictionsPerPlan", maxForeignEvictionsPerPlan);
    positive("leaseNanos", leaseNanos);
    positive("planNanos", planNanos);
    positive("parkedNanos", parkedNanos);
  }

  /** The limits that a sidecar uses unless told otherwise. */
  public static CacheConfig defaults() {
    return new CacheConfig(
        16_384,
        256,
        64,
        256,
        131_072,
        16_384,
        16L << 20,
        65_536,
        4_096,
        65_536,
        1_024,
        TimeUnit.SECONDS.toNanos(30),
        TimeUnit.SECONDS.toNanos(60),
        TimeUnit.SECONDS.toNanos(60));
  }

  /** These limits with other times, in nanoseconds. */
  public CacheConfig withTimes(long lease, long plan, long parked) {
    return new CacheConfig(
        maxNamespaces,
        maxInstances,
        maxGroups,
        maxParts,
        maxChainBlocks,
        maxChainsPerInstance,
        maxChainBlocksTotal,
        maxOpenJobs,
        maxParkedGos,
        maxEndedJobs,
        maxForeignEvictionsPerPlan,
        lease,
        plan,
        parked);
  }

  /** These limits with other bounds on chains. */
  public CacheConfig withChains(int chainBlocks, int chainsPerInstance, long chainBlocksTotal) {
    return new CacheConfig(
        maxNamespaces,
        maxInstances,
        maxGroups,
        maxParts,
        chainBlocks,
        chainsPerInstance,
        chainBlocksTotal,
        maxOpenJobs,
        maxParkedGos,
        maxEndedJobs,
        maxForeignEvictionsPerPlan,
        leaseNanos,
        planNanos,
        parkedNanos);
  }

  /** These limits with other bounds on jobs. */
  public CacheConfig withJobs(int openJobs, int parkedGos, int endedJobs, int foreignEvictions) {
    return new CacheConfig(
        maxNamespaces,
        maxInstances,
        maxGroups,
        maxParts,
        maxChainBlocks,
        maxChainsPerInstance,
        maxChainBlocksTotal,
        openJobs,
        parkedGos,
        endedJobs,
        foreignEvictions,
        leaseNanos,
        planNanos,
        parkedNanos);
  }

  private static void positive(String name, long value) {
    if (value <= 0) {
      throw new IllegalArgumentException(
          "%s=%d, expected a positive number".formatted(name, value));
    }
  }
}
