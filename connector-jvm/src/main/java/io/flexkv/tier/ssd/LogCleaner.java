package io.flexkv.tier.ssd;

import io.flexkv.ffm.ErrnoException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

/** Makes room in a header log. One thread. */
final class LogCleaner {
  private static final int CHUNK_PAGES = 64;

  private final HeaderLog log;
  private final DirectoryFiles files;
  private final BlockIo io;
  private final MemorySegment chunk;

  LogCleaner(HeaderLog log, DirectoryFiles files, BlockIo io, Arena arena) {
    this.log = log;
    this.files = files;
    this.io = io;
    this.chunk = arena.allocate((long) CHUNK_PAGES * SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
  }

  /**
   * Cleans one extent if that is needed and possible.
   *
   * @return 0, or the error number of the access that failed
   */
  int clean() {
    LogExtents.Victim victim = log.victim();
    if (victim == null) {
      return 0;
    }
    for (int page = 0; page < log.pagesPerExtent(); page += CHUNK_PAGES) {
      int pages = Math.min(CHUNK_PAGES, log.pagesPerExtent() - page);
      int errno = cleanChunk(victim, page, pages);
      if (errno != 0) {
        return errno;
      }
    }
    int errno = strike(victim);
    if (errno == 0) {
      log.release(victim);
    }
    return errno;
  }

  /**
   * Writes an empty page of a new use in the first place of a cleaned extent, so that a start takes
   * the rest for left over. What was moved must be on the disk before.
   */
  private int strike(LogExtents.Victim victim) {
    try {
      files.sync();
    } catch (ErrnoException e) {
      return e.errno();
    }
    MemorySegment page = chunk.asSlice(0, SsdStore.PAGE_BYTES);
    HeaderPageDescriptor.seal(
        page, files.meta().directoryId, log.nextUse(), victim.extent(), 0, 0, 0);
    return access(true, victim.extent(), 0, 1);
  }

  private int access(boolean write, int extent, int firstPage, int pages) {
    long offset = extent * files.meta().extentBytes + (long) firstPage * SsdStore.PAGE_BYTES;
    return BlockingAccess.run(
        io,
        BlockOp.Urgency.META,
        write,
        files.fileOf(offset),
        files.within(offset),
        chunk.address(),
        pages * SsdStore.PAGE_BYTES);
  }

  private int cleanChunk(LogExtents.Victim victim, int first, int pages) {
    int errno = access(false, victim.extent(), first, pages);
    if (errno != 0) {
      return errno;
    }
    Semaphore ended = new Semaphore(0);
    AtomicInteger failure = new AtomicInteger();
    int moved = 0;
    for (int i = 0; i < pages; i++) {
      MemorySegment page = chunk.asSlice((long) i * SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
      moved += movePage(victim, first + i, page, ended, failure);
    }
    log.start(true);
    ended.acquireUninterruptibly(moved);
    return failure.get();
  }

  private int movePage(
      LogExtents.Victim victim,
      int index,
      MemorySegment page,
      Semaphore ended,
      AtomicInteger failure) {
    long id = files.meta().directoryId;
    if (!HeaderPageDescriptor.valid(page, id, victim.extent(), index)
        || HeaderPageDescriptor.use(page) != victim.use()) {
      return 0; // damaged, or left over from an earlier use: none of its headers counts
    }
    int number = log.pageNumber(victim.extent(), index);
    MemorySegment records = HeaderPageDescriptor.records(page);
    int moved = 0;
    HeaderRecord record = new HeaderRecord();
    for (long at = 0; record.wrap(records, at); at += record.length()) {
      boolean live =
          log.move(
              record,
              number,
              errno -> {
                failure.compareAndSet(0, errno);
                ended.release();
              });
      moved += live ? 1 : 0;
    }
    return moved;
  }
}
