/**
 * Blocks on disks: slots in preallocated files, the log of their headers, the threads that read and
 * write. Knows slots and bytes, not the cache's index.
 */
@NullMarked
package io.flexkv.tier.ssd;

import org.jspecify.annotations.NullMarked;
