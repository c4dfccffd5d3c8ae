package io.flexkv.tier.ssd;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Reads stretches of a directory's header log ahead of whoever looks at them, so that the disk and
 * the processor work at the same time. What was asked for first comes first. One thread.
 */
final class LogReader implements AutoCloseable {
  static final int CHUNK_PAGES = 256;

  /** Stretches under way: enough for a disk, and little before the read of a request. */
  private static final int DEPTH = 4;

  private static final int CHUNK_BYTES = CHUNK_PAGES * SsdStore.PAGE_BYTES;

  /**
   * Pages of an extent of the log.
   *
   * @param errno 0, or why they could not be read
   */
  record Chunk(int extent, int first, int count, int errno, MemorySegment pages) {
    MemorySegment page(int index) {
      return pages.asSlice((long) index * SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
    }
  }

  private record UnderWay(
      int extent, int first, int count, BlockingAccess access, MemorySegment buffer) {}

  private final SsdDirectory directory;
  private final Arena arena = Arena.ofShared();
  private final Deque<MemorySegment> free = new ArrayDeque<>();
  private final Deque<UnderWay> underWay = new ArrayDeque<>();
  private MemorySegment lent = MemorySegment.NULL;

  LogReader(SsdDirectory directory) {
    this.directory = directory;
    for (int i = 0; i <= DEPTH; i++) {
      free.add(arena.allocate(CHUNK_BYTES, SsdStore.PAGE_BYTES));
    }
  }

  /** Whether another stretch may be asked for now. */
  boolean hasRoom() {
    return underWay.size() < DEPTH;
  }

  boolean isEmpty() {
    return underWay.isEmpty();
  }

  /**
   * Asks for pages.
   *
   * @param count at most {@value #CHUNK_PAGES}
   */
  void ask(int extent, int first, int count) {
    MemorySegment buffer = free.remove();
    DirectoryFiles files = directory.files();
    long offset = extent * files.meta().extentBytes + (long) first * SsdStore.PAGE_BYTES;
    BlockingAccess access =
        BlockingAccess.begin(
            directory.io(),
            BlockOp.Urgency.META,
            false,
            files.fileOf(offset),
            files.within(offset),
            buffer.address(),
            count * SsdStore.PAGE_BYTES);
    underWay.add(new UnderWay(extent, first, count, access, buffer));
  }

  /** Waits for what was asked for first; it is there until the next call. */
  Chunk next() {
    UnderWay next = underWay.remove();
    if (lent.byteSize() > 0) {
      free.add(lent);
    }
    lent = next.buffer();
    return new Chunk(next.extent(), next.first(), next.count(), next.access().await(), lent);
  }

  /** Waits for the disk to let go of the memory. */
  @Override
  public void close() {
    underWay.forEach(read -> read.access().await());
    arena.close();
  }
}
