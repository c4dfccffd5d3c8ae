package io.flexkv.tier.ssd;

import java.lang.foreign.MemorySegment;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Goes through the header log of a directory from the oldest page that counts to the latest, once
 * or, where {@link #again} was said of pages, once more. One thread.
 */
final class RecoveryCursor implements AutoCloseable {
  private final SsdDirectory directory;
  private final DirectoryScan scan;
  private final LogReader reader;
  private final int[] extents;
  private final long pages;
  private PageSet again;

  /** Pages to look at; null = all. */
  private @Nullable PageSet wanted;

  private LogReader.@Nullable Chunk chunk;
  private int inChunk;
  private int askedExtents;
  private int askedPage;
  private long done;
  private long bytesRead;

  RecoveryCursor(SsdDirectory directory, DirectoryScan scan) {
    this.directory = directory;
    this.scan = scan;
    this.reader = new LogReader(directory);
    this.again = new PageSet(directory.log().pagesPerExtent());
    this.extents = scan.extentsInOrder();
    long sum = 0;
    for (int extent : extents) {
      sum += scan.pagesOf(extent);
    }
    this.pages = sum;
  }

  SsdDirectory directory() {
    return directory;
  }

  DirectoryScan scan() {
    return scan;
  }

  long bytesRead() {
    return bytesRead;
  }

  /** Which share of the log is behind it. */
  double share() {
    return pages == 0 ? 1 : (double) done / pages;
  }

  /** A page, by {@link HeaderLog#pageNumber}, is to be looked at once more. */
  void again(int page) {
    again.add(page);
  }

  /** Begins anew, with the pages of {@link #again} alone. */
  void restart() {
    wanted = again;
    again = new PageSet(directory.log().pagesPerExtent());
    askedExtents = 0;
    askedPage = 0;
    done = 0;
  }

  /** The number of the next page, 0 at the end; its records are then {@link #records}. */
  int next() {
    while (true) {
      if (chunk == null || inChunk + 1 >= chunk.count()) {
        if (!nextChunk()) {
          return 0;
        }
      } else {
        inChunk++;
      }
      LogReader.Chunk here = Objects.requireNonNull(chunk);
      int index = here.first() + inChunk;
      int number = directory.log().pageNumber(here.extent(), index);
      done++;
      long id = directory.files().meta().directoryId;
      if ((wanted == null || wanted.contains(number))
          && HeaderPageDescriptor.valid(here.page(inChunk), id, here.extent(), index)) {
        return number;
      }
    }
  }

  /** Records of the page that {@link #next} came to. */
  MemorySegment records() {
    return HeaderPageDescriptor.records(Objects.requireNonNull(chunk).page(inChunk));
  }

  /** Moves to the next stretch that could be read, and asks for those behind it. */
  private boolean nextChunk() {
    while (true) {
      while (reader.hasRoom() && askNext()) {}
      if (reader.isEmpty()) {
        chunk = null;
        return false;
      }
      LogReader.Chunk next = reader.next();
      bytesRead += (long) next.count() * SsdStore.PAGE_BYTES;
      if (next.errno() == 0) {
        chunk = next;
        inChunk = 0;
        return true;
      }
      done += next.count();
    }
  }

  /** Asks for the next stretch with a page to look at; false if there is none. */
  private boolean askNext() {
    while (askedExtents < extents.length) {
      int extent = extents[askedExtents];
      int end = scan.pagesOf(extent);
      int first = askedPage;
      int count = Math.min(LogReader.CHUNK_PAGES, end - first);
      askedPage += count;
      if (askedPage >= end) {
        askedExtents++;
        askedPage = 0;
      }
      if (count > 0 && isWanted(extent, first, count)) {
        reader.ask(extent, first, count);
        return true;
      }
      done += count;
    }
    return false;
  }

  private boolean isWanted(int extent, int first, int count) {
    if (wanted == null) {
      return true;
    }
    return wanted.anyOf(directory.log().pageNumber(extent, first), count);
  }

  @Override
  public void close() {
    reader.close();
  }
}
