package io.flexkv.tier.ssd;

/**
 * Counters since the start.
 *
 * @param readBlocks blocks read and verified
 * @param readBytes their payload
 * @param writtenBlocks blocks stored
 * @param writtenBytes their payload
 * @param headerBytes written beside them
 * @param corruptBlocks reads whose bytes did not verify
 * @param staleBlocks those among reads of recovered, never verified blocks after an unclean end: a
 *     slot that was being written anew when the end came
 * @param quarantinedBytes room that is not used any more since its bytes did not verify
 * @param readErrors accesses that the disk refused
 * @param writeErrors likewise
 * @param deadlinesMissed reads that ended at their deadline
 * @param scrubbedBlocks blocks that the background scrub has read
 */
public record SsdStats(
    long readBlocks,
    long readBytes,
    long writtenBlocks,
    long writtenBytes,
    long headerBytes,
    long corruptBlocks,
    long staleBlocks,
    long quarantinedBytes,
    long readErrors,
    long writeErrors,
    long deadlinesMissed,
    long scrubbedBlocks) {}
