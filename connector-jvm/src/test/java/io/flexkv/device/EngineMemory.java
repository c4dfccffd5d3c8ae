package io.flexkv.device;

import java.io.IOException;
import java.util.List;

/** The engine's side in tests: memory that a {@link DeviceMemory} reaches, seen from its owner. */
public interface EngineMemory extends AutoCloseable {
  /** The allocations, in order, as the engine would register them. */
  List<AllocationHandle> allocations() throws Exception;

  /** The owner's own look at its memory. */
  byte[] peek(int allocation, long offset, int length) throws Exception;

  /** The owner's own write. */
  void poke(int allocation, long offset, byte[] bytes) throws Exception;

  /** Opens the backend under test. */
  DeviceMemory open(RankLayout layout) throws DeviceException;

  /** Ends the owner without warning and waits until it has ended. */
  void kill();

  @Override
  void close() throws IOException;
}
