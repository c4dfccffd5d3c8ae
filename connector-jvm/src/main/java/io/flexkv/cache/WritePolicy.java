package io.flexkv.cache;

/** When a block of the host tier is written to the SSD tier. */
public enum WritePolicy {
  /** As soon as it is servable. */
  THROUGH,
  /** When the host tier is nearly full and it is the next to go. */
  BACK,
  /** When a lookup has found it: once written and once read is not enough. */
  SECOND_HIT
}
