package io.flexkv.cache;

/**
 * What tells a block from every other one, wherever its bytes lie: what a tier that outlives this
 * process keeps beside them.
 *
 * @param digestHi upper half of the namespace's digest
 * @param digestLo lower half
 * @param generation the namespace's generation
 * @param group KV group id
 * @param hashHi upper half of the last 16 bytes of the block's hash
 * @param hashLo lower half
 * @param hasParent whether it continues another block; if not, the parent's halves are 0
 * @param parentHi upper half of the last 16 bytes of the parent's hash
 * @param parentLo lower half
 * @param slotBytes bytes of the block, all parts
 */
public record BlockIdentity(
    long digestHi,
    long digestLo,
    int generation,
    int group,
    long hashHi,
    long hashLo,
    boolean hasParent,
    long parentHi,
    long parentLo,
    long slotBytes) {}
