package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** Reads blocks that nobody asked for, to see whether they are what they should be. One thread. */
final class BlockVerifier {
  private final SsdDirectory directory;
  private final Arena arena;
  private final MemorySegment page;
  private MemorySegment payload;

  BlockVerifier(SsdDirectory directory, Arena arena) {
    this.directory = directory;
    this.arena = arena;
    this.page = arena.allocate(SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
    this.payload = arena.allocate(SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
  }

  /**
   * What was found.
   *
   * @param header of the slot, null if it could not be read
   * @param bytes read
   * @param errno 0, or why it could not be read
   * @param wanted checksum that was written
   * @param found checksum of what is there
   */
  record Finding(@Nullable SlotHeader header, long bytes, int errno, int wanted, int found) {
    boolean good() {
      return errno == 0 && wanted == found;
    }
  }

  /** Reads a slot with its header; null if it holds nothing, or something else by now. */
  @Nullable Finding verify(SlotSpan span, int index) {
    long digest = span.identityDigest(index);
    int number = directory.log().headerPage(span, index);
    if (digest == 0 || number == 0) {
      return null;
    }
    int pages = directory.log().pagesPerExtent();
    int extent = (number - 1) / pages;
    int errno = DirectoryScan.readPages(directory, extent, (number - 1) % pages, 1, page);
    if (errno != 0) {
      return still(span, index, digest)
          ? new Finding(null, SsdStore.PAGE_BYTES, errno, 0, 0)
          : null;
    }
    HeaderRecord record = find(span, index, extent, (number - 1) % pages);
    if (record == null || record.identityDigest() != digest) {
      // Moved or overtaken meanwhile; or its page is damaged, which the next start will find.
      return null;
    }
    return read(span, index, digest, record);
  }

  private Finding read(SlotSpan span, int index, long digest, HeaderRecord record) {
    int length = (int) SsdEngine.rounded(record.payloadBytes());
    if (payload.byteSize() < length) {
      payload = arena.allocate(length, SsdStore.PAGE_BYTES);
    }
    long offset = span.offset(index);
    DirectoryFiles files = directory.files();
    int errno =
        BlockingAccess.run(
            directory.io(),
            BlockOp.Urgency.READ_SPECULATIVE,
            false,
            files.fileOf(offset),
            files.within(offset),
            payload.address(),
            length);
    if (!still(span, index, digest)) {
      return new Finding(record.header(), length, 0, 0, 0); // written anew while it was read
    }
    int found =
        errno == 0 ? Checksums.ofBlock(digest, payload.address(), record.payloadBytes()) : 0;
    return new Finding(
        record.header(),
        (long) length + SsdStore.PAGE_BYTES,
        errno == Errno.ECANCELED ? 0 : errno,
        errno == 0 ? record.sum() : 0,
        found);
  }

  private static boolean still(SlotSpan span, int index, long digest) {
    return span.identityDigest(index) == digest;
  }

  private @Nullable HeaderRecord find(SlotSpan span, int index, int extent, int pageIndex) {
    if (!HeaderPageDescriptor.valid(
        page, directory.files().meta().directoryId, extent, pageIndex)) {
      return null;
    }
    MemorySegment records = HeaderPageDescriptor.records(page);
    HeaderRecord record = new HeaderRecord();
    for (long at = 0; record.wrap(records, at); at += record.length()) {
      if (record.spanSequence() == span.sequence && record.index() == index) {
        return record;
      }
    }
    return null;
  }
}
