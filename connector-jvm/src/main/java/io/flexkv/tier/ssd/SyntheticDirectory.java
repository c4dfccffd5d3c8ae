package io.flexkv.tier.ssd;

import io.flexkv.ffm.DirectFile;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;

/**
 * A directory as a life leaves it that stored many blocks and ended cleanly, made by writing its
 * header log alone: what a start does with it does not depend on the payloads, and these would take
 * minutes. For benches and tests. Chains of {@value #CHAIN} blocks, {@value #CHAINS} at a time and
 * {@value #RUN} blocks of each in turn, as engines write them; keys look like hashes.
 */
public final class SyntheticDirectory {
  private static final long NAMESPACE_HI = 0x1111;
  private static final long NAMESPACE_LO = 0x2222;

  /** Blocks of a chain. */
  private static final int CHAIN = 128;

  /** Chains that grow side by side. */
  private static final int CHAINS = 32;

  /** Blocks of a chain between those of others. */
  private static final int RUN = 8;

  private static final int ROUND = CHAINS * CHAIN;

  private static final int BATCH_PAGES = 1024;
  private static final int BLOCK_TOKENS = 16;

  private final DirectoryFiles files;
  private final DirectoryMeta meta;
  private final long blockBytes;
  private final int eventBytes;
  private final boolean lateRoots;
  private final MemorySegment batch;
  private final SplittableRandom random = new SplittableRandom(1);

  /** The last keys of the chains that grow. */
  private final long[] lastHi = new long[CHAINS];

  private final long[] lastLo = new long[CHAINS];
  private long sequence = 1;
  private int extent;
  private int page;
  private int batched;
  private int count;
  private int used;

  private SyntheticDirectory(
      DirectoryFiles files, long blockBytes, int eventBytes, boolean lateRoots, Arena arena) {
    this.files = files;
    this.meta = files.meta();
    this.blockBytes = blockBytes;
    this.eventBytes = eventBytes;
    this.lateRoots = lateRoots;
    this.batch = arena.allocate((long) BATCH_PAGES * SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
  }

  /**
   * Makes one.
   *
   * @param blockBytes of each block, a multiple of a page
   * @param eventBytes of event data of each
   * @param lateRoots whether the first root, and the first of the last chains, lie behind all
   *     others, as cleaning the log may leave them
   * @return the capacity to open it with
   */
  public static long make(
      Path path, long blocks, long blockBytes, int eventBytes, boolean lateRoots)
      throws IOException {
    int recordsAPage =
        HeaderPageDescriptor.RECORDS_BYTES / ((HeaderRecord.FIXED_BYTES + eventBytes + 7) / 8 * 8);
    long logBytes = (blocks / recordsAPage + 1) * SsdStore.PAGE_BYTES;
    long capacity = (blocks * blockBytes + logBytes) / 15 * 16 + (1 << 20);
    try (DirectoryFiles files = DirectoryFiles.open(path, capacity, 0, 0, new SplittableRandom(7));
        Arena arena = Arena.ofConfined()) {
      new SyntheticDirectory(files, blockBytes, eventBytes, lateRoots, arena)
          .fill(blocks, logBytes);
    }
    return capacity;
  }

  private void fill(long blocks, long logBytes) throws IOException {
    int logExtents = (int) (logBytes / meta.extentBytes) + 4;
    meta.logExtents.set(0, logExtents);
    int nextExtent = logExtents;
    List<MemorySegment> late = new ArrayList<>();
    SlotSpan span = null;
    for (long block = 0; block < blocks; block++) {
      if (span == null || span.full()) {
        int extents = (int) ((blockBytes + meta.extentBytes - 1) / meta.extentBytes);
        span = new SlotSpan(nextExtent, extents, meta.extentBytes, blockBytes, sequence++, 0);
        nextExtent += extents;
      }
      int chain = (int) (block / RUN % CHAINS);
      boolean root = block % ROUND < CHAINS * RUN && block % RUN == 0;
      SlotHeader header = header(root, chain);
      MemorySegment record = MemorySegment.ofArray(new long[HeaderRecord.length(header) / 8]);
      HeaderRecord.encode(record, header, span, span.take(), 0, sequence++);
      boolean first = block == 0 || block == (blocks - 1) / ROUND * ROUND;
      if (lateRoots && first) {
        late.add(record);
      } else {
        append(record);
      }
    }
    for (MemorySegment record : late) {
      append(record);
    }
    seal();
    flush();
    describe();
  }

  /** Of the next block of a chain. */
  private SlotHeader header(boolean root, int chain) {
    long parentHi = lastHi[chain];
    long parentLo = lastLo[chain];
    lastHi[chain] = random.nextLong();
    lastLo[chain] = random.nextLong();
    SlotIdentity identity =
        new SlotIdentity(
            NAMESPACE_HI,
            NAMESPACE_LO,
            0,
            0,
            lastHi[chain],
            lastLo[chain],
            NAMESPACE_LO,
            blockBytes);
    return new SlotHeader(
        identity,
        !root,
        root ? 0 : parentHi,
        root ? 0 : parentLo,
        BLOCK_TOKENS,
        1,
        new byte[eventBytes]);
  }

  private void append(MemorySegment record) throws IOException {
    if (used + record.byteSize() > HeaderPageDescriptor.RECORDS_BYTES) {
      seal();
    }
    long at = (long) batched * SsdStore.PAGE_BYTES + HeaderPageDescriptor.RECORDS_OFFSET + used;
    MemorySegment.copy(record, 0, batch, at, record.byteSize());
    used += (int) record.byteSize();
    count++;
  }

  private void seal() throws IOException {
    MemorySegment into = batch.asSlice((long) batched * SsdStore.PAGE_BYTES, SsdStore.PAGE_BYTES);
    HeaderPageDescriptor.seal(
        into, meta.directoryId, extent + 1, extent, page + batched, count, used);
    used = 0;
    count = 0;
    batched++;
    int pagesPerExtent = (int) (meta.extentBytes / SsdStore.PAGE_BYTES);
    if (batched == BATCH_PAGES || page + batched == pagesPerExtent) {
      flush();
    }
    if (page == pagesPerExtent) {
      extent++;
      page = 0;
    }
  }

  private void flush() throws IOException {
    long offset = extent * meta.extentBytes + (long) page * SsdStore.PAGE_BYTES;
    write(files.all().get(files.fileOf(offset)), files.within(offset), batched);
    page += batched;
    batched = 0;
  }

  private void write(DirectFile file, long offset, int pages) throws IOException {
    long bytes = (long) pages * SsdStore.PAGE_BYTES;
    if (bytes > 0 && file.write(offset, batch.address(), bytes) != bytes) {
      throw new IOException("short write");
    }
  }

  private void describe() throws IOException {
    meta.members = new long[] {meta.directoryId};
    meta.clean = true;
    meta.sequence = 1;
    meta.encode(batch.asSlice(0, DirectoryMeta.BYTES));
    write(files.all().get(0), DirectoryMeta.BYTES, DirectoryMeta.BYTES / SsdStore.PAGE_BYTES);
  }
}
