package io.flexkv.device;

/** Which way a copy goes, seen from the engine. */
public enum Direction {
  /** Host to device: blocks come back into the engine. */
  LOAD,
  /** Device to host: blocks leave the engine. */
  SAVE
}
