package io.flexkv.session;

import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.SharedMemory;
import io.flexkv.protocol.GenerationFileDescriptor;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.SessionFileDescriptor;
import io.flexkv.protocol.SessionFileDescriptor.Geometry;
import io.flexkv.protocol.SharedWords;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * The files a client sent, mapped and checked. Closed by the cache thread once no mover can look at
 * them any more: every later access throws instead of faulting.
 */
final class SessionMemory implements AutoCloseable {
  private static final int MAX_SEALED = SharedMemory.SEAL_SHRINK | SharedMemory.SEAL_GROW;
  private static final long MAX_FILE_BYTES =
      new Geometry(
              1,
              1,
              SessionFileDescriptor.MAX_RING_BYTES,
              SessionFileDescriptor.MAX_RING_BYTES,
              SessionFileDescriptor.MAX_WORDS,
              SessionFileDescriptor.MAX_WORDS)
          .totalBytes();

  private final Arena arena;
  private final MemorySegment file;
  private final Geometry geometry;
  private final @Nullable MemorySegment generations;
  private final int generationEntries;

  private SessionMemory(
      Arena arena,
      MemorySegment file,
      Geometry geometry,
      @Nullable MemorySegment generations,
      int generationEntries) {
    this.arena = arena;
    this.file = file;
    this.geometry = geometry;
    this.generations = generations;
    this.generationEntries = generationEntries;
  }

  /**
   * Maps the descriptors of a {@code HELLO}; they stay the caller's to close.
   *
   * @param fds the session file, then (schedulers) the generation file
   */
  static SessionMemory map(Hello hello, List<Integer> fds) throws ProtocolException {
    int most = hello.isScheduler() ? 2 : 1;
    if (fds.isEmpty() || fds.size() > most) {
      throw new ProtocolException(
          "%d descriptors came with the hello, wanted 1%s"
              .formatted(fds.size(), hello.isScheduler() ? " or 2" : ""));
    }
    // Shared: the mover reads revoke words while the cache thread owns the life of the mapping.
    Arena arena = Arena.ofShared();
    try {
      MemorySegment file = mapSealed("session file", fds.getFirst(), MAX_FILE_BYTES, arena);
      Geometry geometry = SessionFileDescriptor.geometry(file);
      if (geometry.role() != hello.role() || geometry.clientPid() != hello.pid()) {
        throw new ProtocolException(
            "session file of role %d pid %d, hello said role %d pid %d"
                .formatted(geometry.role(), geometry.clientPid(), hello.role(), hello.pid()));
      }
      MemorySegment generations = null;
      int entries = 0;
      if (fds.size() == 2) {
        long most64 = GenerationFileDescriptor.totalBytes(GenerationFileDescriptor.MAX_ENTRIES);
        generations = mapSealed("generation file", fds.get(1), most64, arena);
        entries = GenerationFileDescriptor.entries(generations);
      }
      return new SessionMemory(arena, file, geometry, generations, entries);
    } catch (ProtocolException | RuntimeException e) {
      arena.close();
      throw e;
    }
  }

  private static MemorySegment mapSealed(String what, int fd, long most, Arena arena)
      throws ProtocolException {
    try {
      int seals = SharedMemory.seals(fd);
      if ((seals & MAX_SEALED) != MAX_SEALED) {
        throw new ProtocolException(
            "%s with seals %d, wanted shrink and grow (%d)".formatted(what, seals, MAX_SEALED));
      }
      long size = SharedMemory.size(fd);
      if (size <= 0 || size > most) {
        throw new ProtocolException("%s of %d bytes, at most %d".formatted(what, size, most));
      }
      return SharedMemory.mapShared(fd, size, arena);
    } catch (ErrnoException e) {
      throw new ProtocolException(what + " cannot be mapped: " + e.getMessage());
    }
  }

  MemorySegment file() {
    return file;
  }

  Geometry geometry() {
    return geometry;
  }

  /** The counter of a block, with acquire; −1 (which no counter reaches) if there is none. */
  long generation(int block) {
    return generations == null || block < 0 || block >= generationEntries
        ? -1
        : GenerationFileDescriptor.counter(generations, block);
  }

  /** Tells the worker that it may record event {@code index} anew; any thread. */
  void setFenceSeen(int index, long sequence) {
    if (index >= 0 && index < geometry.fenceCount()) {
      SharedWords.setRelease(file, geometry.fenceOffset() + 8L * index, sequence);
    }
  }

  void setSleeping(boolean sleeping) {
    SharedWords.setVolatileInt(file, SessionFileDescriptor.SLEEPING, sleeping ? 1 : 0);
  }

  @Override
  public void close() {
    arena.close();
  }
}
