package io.flexkv.session;

import io.flexkv.cache.SsdConfig;
import io.flexkv.tier.ssd.SsdStore;

/**
 * An SSD tier and how it is used.
 *
 * @param store stays the owner's to close, after the cache thread has ended
 * @param config bounds and policies
 * @param maxBlocks cap on the number of blocks, besides the store's own; 0 = none
 */
public record SsdUse(SsdStore store, SsdConfig config, long maxBlocks) {}
