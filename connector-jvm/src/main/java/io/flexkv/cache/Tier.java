package io.flexkv.cache;

/** Where a block's bytes lie, from the fastest to the slowest. */
public enum Tier {
  /** The host pool: the sidecar's memory. */
  HOST,
  /** The SSD files: survives a restart of the sidecar. */
  SSD
}
