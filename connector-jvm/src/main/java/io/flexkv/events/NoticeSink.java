package io.flexkv.events;

import java.lang.foreign.MemorySegment;

/** Where a subscriber's notices go. */
@FunctionalInterface
public interface NoticeSink {
  /**
   * Hands over the record of {@code length} bytes at the start of {@code record}, or none of it.
   *
   * @return false if there is no room now, or never again
   */
  boolean offer(MemorySegment record, int length);
}
