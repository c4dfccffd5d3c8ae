package io.flexkv.device;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import io.flexkv.ffm.CudaDriver;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * The arrays of one slice as the driver takes them, and the call that submits them. Owned by one
 * stream.
 *
 * <p>{@code CUmemcpyAttributes}: 0 i32 source access order | 4 i32 type, 8 i32 id of the source's
 * location (0 = none) | 12, 16 of the destination's | 20 u32 flags.
 *
 * <p>Access order: STREAM for saves, because what comes before in the stream may write the source.
 * ANY for loads: the source is a leased slot of the pool, written long ago and stable until the job
 * has ended.
 */
final class CudaBatch {
  private static final int ORDER_STREAM = 1;
  private static final int ORDER_ANY = 3;
  private static final int PREFER_OVERLAP_WITH_COMPUTE = 1;

  private final CudaDriver driver;
  private CudaCopyPath path;
  private final Direction direction;
  private final PinnedRanges pool;
  private final int capacity;
  private final MemorySegment destinations;
  private final MemorySegment sources;
  private final MemorySegment lengths;
  private final MemorySegment attributes;
  private final MemorySegment firstIndex;
  private final MemorySegment failIndex;
  private int count;
  private boolean pinned;

  CudaBatch(
      CudaDriver driver, CudaCopyPath path, Direction direction, PinnedRanges pool, int capacity) {
    this.driver = driver;
    this.path = path;
    this.direction = direction;
    this.pool = pool;
    this.capacity = capacity;
    Arena arena = Arena.ofAuto();
    this.destinations = arena.allocate(8L * capacity, 8);
    this.sources = arena.allocate(8L * capacity, 8);
    this.lengths = arena.allocate(8L * capacity, 8);
    this.attributes = arena.allocate(CudaDriver.ATTRIBUTES_BYTES, 8);
    this.firstIndex = arena.allocate(8, 8);
    this.failIndex = arena.allocate(8, 8);
    attributes.set(JAVA_INT, 0, direction == Direction.LOAD ? ORDER_ANY : ORDER_STREAM);
    attributes.set(JAVA_INT, 20, PREFER_OVERLAP_WITH_COMPUTE);
  }

  /** The path that the driver has, if AUTO was asked for, else the one asked for. */
  static CudaCopyPath choose(CudaDriver driver, CudaCopyPath wanted) throws DeviceException {
    boolean there =
        switch (wanted) {
          case BATCH_V2 -> driver.hasBatchV2();
          case BATCH_V1 -> driver.hasBatchV1();
          case LOOP, AUTO -> true;
        };
    if (!there) {
      throw CudaLibrary.unsupported(
          "copy path %s is not offered by this driver; use AUTO".formatted(wanted));
    }
    if (wanted != CudaCopyPath.AUTO) {
      return wanted;
    }
    if (driver.hasBatchV2()) {
      return CudaCopyPath.BATCH_V2;
    }
    return driver.hasBatchV1() ? CudaCopyPath.BATCH_V1 : CudaCopyPath.LOOP;
  }

  /** Takes over a slice, cutting copies at the borders of pinned pieces. */
  void fill(CopySlice slice) {
    count = 0;
    pinned = true;
    for (int i = 0; i < slice.count(); i++) {
      long device = slice.deviceAddress(i);
      long host = slice.hostAddress(i);
      long length = slice.length(i);
      int segment = pool.segmentOf(host);
      pinned &= pool.isPinned(segment, host, length);
      while (length > 0) {
        long part = Math.min(length, pool.toBorder(segment, host));
        put(device, host, part);
        device += part;
        host += part;
        length -= part;
      }
    }
  }

  private void put(long device, long host, long length) {
    if (count == capacity) {
      throw new IllegalStateException("cuda batch is full: capacity=" + capacity);
    }
    boolean load = direction == Direction.LOAD;
    destinations.setAtIndex(JAVA_LONG, count, load ? device : host);
    sources.setAtIndex(JAVA_LONG, count, load ? host : device);
    lengths.setAtIndex(JAVA_LONG, count, length);
    count++;
  }

  /**
   * Submits. Memory that is not pinned yet goes copy by copy: there the driver stages, which a
   * batch does not promise to do.
   *
   * @return a {@code CUresult}; if it is not 0, some copies may be on their way
   */
  int submit(long stream) {
    if (!pinned || path == CudaCopyPath.LOOP) {
      return loop(stream);
    }
    if (path == CudaCopyPath.BATCH_V2) {
      return driver.batchV2(destinations, sources, lengths, count, attributes, firstIndex, stream);
    }
    return driver.batchV1(
        destinations, sources, lengths, count, attributes, firstIndex, failIndex, stream);
  }

  /** Whether the last slice went by a batched call. */
  boolean batched() {
    return pinned && path != CudaCopyPath.LOOP;
  }

  /** Uses no batched call any more. */
  void giveUpBatches() {
    path = CudaCopyPath.LOOP;
  }

  private int loop(long stream) {
    for (int i = 0; i < count; i++) {
      long destination = destinations.getAtIndex(JAVA_LONG, i);
      long source = sources.getAtIndex(JAVA_LONG, i);
      long length = lengths.getAtIndex(JAVA_LONG, i);
      int code =
          direction == Direction.LOAD
              ? driver.copyToDevice(destination, source, length, stream)
              : driver.copyToHost(destination, source, length, stream);
      if (code != CudaDriver.SUCCESS) {
        return code;
      }
    }
    return CudaDriver.SUCCESS;
  }
}
