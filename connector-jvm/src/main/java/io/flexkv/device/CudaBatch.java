package io.flexkv.device;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import io.flexkv.ffm.CudaDriver;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * The arrays of one slice as the driver takes them, and the calls that submit them. Plain copies go
 * by batched calls, strided ones by one batched 3-D call. Their order is for pace alone, since no
 * two copies of a slice write one byte differently. Owned by one stream.
 *
 * <p>A batched call holds copies of one length, and no more than {@value #COPIES_A_CALL}: of 512
 * that were not all of one length the driver left one out now and then, and reported success
 * (docs/decisions/batches-of-one-length.md).
 *
 * <p>{@code CUmemcpyAttributes}: 0 i32 source access order | 4 i32 type, 8 i32 id of the source's
 * location (0 = none) | 12, 16 of the destination's | 20 u32 flags.
 *
 * <p>Access order: STREAM for saves, because what comes before in the stream may write the source.
 * ANY for loads: the source is a leased slot of the pool, whole before its copy is submitted (one
 * from the SSD read and checked) and stable until the job has ended.
 */
final class CudaBatch {
  private static final int ORDER_STREAM = 1;
  private static final int ORDER_ANY = 3;
  private static final int PREFER_OVERLAP_WITH_COMPUTE = 1;

  private static final int COPIES_A_CALL = 256;

  /** From so many small loads on a {@link CudaLead} costs less than it brings. */
  private static final int WORTH_A_LEAD = 8;

  private static final long REST_NANOS = 500_000;

  private final CudaDriver driver;
  private final CudaSections sections = new CudaSections();
  private final CudaCopyPath wanted;
  private CudaCopyPath path;
  private boolean strided = true;
  private boolean neverStrided;
  private boolean neverBatched;
  private boolean refusedStrided;
  private final Direction direction;
  private final PinnedRanges pool;
  private final @Nullable CudaLead lead;
  private final int capacity;
  private final MemorySegment destinations;
  private final MemorySegment sources;
  private final MemorySegment lengths;
  private final MemorySegment callDestinations;
  private final MemorySegment callSources;
  private final MemorySegment callLengths;
  private final MemorySegment attributes;
  private final MemorySegment firstIndex;
  private final MemorySegment failIndex;
  private final CudaRows rows;
  private int count;

  /** Whether all taken over have the length of the first. */
  private boolean ofOneLength = true;

  private long firstLength;

  private boolean pinned;
  private boolean alone;
  private boolean stridedHere;
  private boolean onARestingStream;

  /** A part of the pool that lies in one pinned piece; of this slice, for borders may change. */
  private long pieceStart;

  private long pieceEnd;

  /**
   * @param capacity copies of a slice
   * @param lead goes before small loads, null if there is none
   */
  CudaBatch(
      CudaDriver driver,
      CudaCopyPath path,
      Direction direction,
      PinnedRanges pool,
      int capacity,
      @Nullable CudaLead lead) {
    this.driver = driver;
    this.wanted = path;
    this.path = path;
    this.direction = direction;
    this.pool = pool;
    this.lead = lead;
    this.capacity = capacity;
    Arena arena = Arena.ofAuto();
    this.destinations = arena.allocate(8L * capacity, 8);
    this.sources = arena.allocate(8L * capacity, 8);
    this.lengths = arena.allocate(8L * capacity, 8);
    this.callDestinations = arena.allocate(8L * capacity, 8);
    this.callSources = arena.allocate(8L * capacity, 8);
    this.callLengths = arena.allocate(8L * capacity, 8);
    this.attributes = arena.allocate(CudaDriver.ATTRIBUTES_BYTES, 8);
    this.firstIndex = arena.allocate(8, 8);
    this.failIndex = arena.allocate(8, 8);
    int order = direction == Direction.LOAD ? ORDER_ANY : ORDER_STREAM;
    attributes.set(JAVA_INT, 0, order);
    attributes.set(JAVA_INT, 20, PREFER_OVERLAP_WITH_COMPUTE);
    this.rows = new CudaRows(driver, direction, capacity, order, PREFER_OVERLAP_WITH_COMPUTE);
  }

  /** The path that the driver has, if AUTO or BATCH was asked for, else the one asked for. */
  static CudaCopyPath choose(CudaDriver driver, CudaCopyPath wanted) throws DeviceException {
    boolean there =
        switch (wanted) {
          case BATCH_V2 -> driver.hasBatchV2();
          case BATCH_V1 -> driver.hasBatchV1();
          case BATCH -> driver.hasBatchV2() || driver.hasBatchV1();
          case LOOP, AUTO -> true;
        };
    if (!there) {
      throw CudaLibrary.unsupported(
          "copy path %s is not offered by this driver: gpu_copy_path=auto takes what it has"
              .formatted(wanted));
    }
    if (wanted != CudaCopyPath.AUTO && wanted != CudaCopyPath.BATCH) {
      return wanted;
    }
    if (driver.hasBatchV2()) {
      return CudaCopyPath.BATCH_V2;
    }
    return driver.hasBatchV1() ? CudaCopyPath.BATCH_V1 : CudaCopyPath.LOOP;
  }

  /**
   * Submits a slice. Memory that is not pinned yet goes copy by copy: there the driver stages,
   * which a batch does not promise to do.
   *
   * @param nothingOnItsWay whether all that was submitted to the stream before has ended
   * @return a {@code CUresult}; if it is not 0, some copies may be on their way
   */
  int submit(CopySlice slice, long stream, boolean nothingOnItsWay) {
    clear();
    pinned = allPinned(slice);
    alone = nothingOnItsWay;
    stridedHere = false;
    onARestingStream = false;
    pieceEnd = pieceStart;
    int code = CudaDriver.SUCCESS;
    for (int i = 0; i < slice.count() && code == CudaDriver.SUCCESS; i++) {
      code = slice.rows(i) == 1 ? plain(slice, i, stream) : rows(slice, i, stream);
    }
    return code == CudaDriver.SUCCESS ? flush(stream) : code;
  }

  /** What a slice that failed has left here is not of the next. */
  private void clear() {
    count = 0;
    rows.clear();
  }

  private boolean allPinned(CopySlice slice) {
    int segment = pool.segmentOf(slice.hostStart());
    return (segment >= 0 && slice.hostEnd() <= pool.pinnedEnd(segment)) || eachPinned(slice);
  }

  private boolean eachPinned(CopySlice slice) {
    int segment = -1;
    long end = 0;
    for (int i = 0; i < slice.count(); i++) {
      long host = slice.hostAddress(i);
      if (segment < 0 || host < pool.start(segment) || host >= end) {
        segment = pool.segmentOf(host);
        if (segment < 0) {
          return false;
        }
        end = pool.pinnedEnd(segment);
      }
      if (host + slice.hostExtent(i) > end) {
        return false;
      }
    }
    return true;
  }

  /** How many bytes from here on lie in one piece; a slice's copies mostly lie in the last one. */
  private long toBorder(long host) {
    if (host < pieceStart || host >= pieceEnd) {
      int segment = pool.segmentOf(host);
      if (segment < 0) {
        return Long.MAX_VALUE;
      }
      pieceStart = host;
      pieceEnd = host + pool.toBorder(segment, host);
    }
    return pieceEnd - host;
  }

  private int plain(CopySlice slice, int i, long stream) {
    return put(slice.deviceAddress(i), slice.hostAddress(i), slice.width(i), stream);
  }

  /** Takes over a plain copy, cut at the borders of pinned pieces. */
  private int put(long device, long host, long length, long stream) {
    while (length > 0) {
      long part = Math.min(length, toBorder(host));
      if (count == capacity) {
        int code = flush(stream);
        if (code != CudaDriver.SUCCESS) {
          return code;
        }
      }
      add(device, host, part);
      device += part;
      host += part;
      length -= part;
    }
    return CudaDriver.SUCCESS;
  }

  private void add(long device, long host, long length) {
    boolean load = direction == Direction.LOAD;
    destinations.setAtIndex(JAVA_LONG, count, load ? device : host);
    sources.setAtIndex(JAVA_LONG, count, load ? host : device);
    lengths.setAtIndex(JAVA_LONG, count, length);
    firstLength = count == 0 ? length : firstLength;
    ofOneLength = length == firstLength && (ofOneLength || count == 0);
    count++;
  }

  /** Takes over a strided copy, cut likewise; a row that lies across a border goes by itself. */
  private int rows(CopySlice slice, int i, long stream) {
    long device = slice.deviceAddress(i);
    long host = slice.hostAddress(i);
    long width = slice.width(i);
    long devicePitch = slice.devicePitch(i);
    long hostPitch = slice.hostPitch(i);
    boolean whole = pinned && strided;
    int code = CudaDriver.SUCCESS;
    stridedHere = true;
    if (whole
        && direction == Direction.LOAD
        && path != CudaCopyPath.LOOP
        && sections.rowByRow(driver.mappings(), device, slice.rows(i), alone)) {
      onARestingStream |= sections.amongTheFirst();
      whole = width > CudaSections.BY_PROCESSOR_UP_TO;
      code = whole ? touchRows(slice, i, stream) : code;
    }
    for (long left = slice.rows(i); left > 0 && code == CudaDriver.SUCCESS; ) {
      long room = toBorder(host);
      long fit = whole && room >= width ? Math.min(left, (room - width) / hostPitch + 1) : 1;
      if (fit > 1) {
        code = rows.full() ? flush(stream) : code;
        if (code == CudaDriver.SUCCESS) {
          rows.put(device, host, width, fit, devicePitch, hostPitch);
        }
      } else {
        code = put(device, host, width, stream);
      }
      device += fit * devicePitch;
      host += fit * hostPitch;
      left -= fit;
    }
    return code;
  }

  /** The beginning of each row by itself as well, for what {@link CudaSections} is after. */
  private int touchRows(CopySlice slice, int i, long stream) {
    int code = CudaDriver.SUCCESS;
    for (long row = 0; row < slice.rows(i) && code == CudaDriver.SUCCESS; row++) {
      long device = slice.deviceAddress(i) + row * slice.devicePitch(i);
      long host = slice.hostAddress(i) + row * slice.hostPitch(i);
      code = put(device, host, CudaSections.TOUCH_BYTES, stream);
    }
    return code;
  }

  /**
   * Submits what was taken over, and forgets it. Plain copies go first: where they are for the
   * processor to write, the stream rests.
   */
  private int flush(long stream) {
    int plain = count;
    count = 0;
    refusedStrided = false;
    int code = plain == 0 ? CudaDriver.SUCCESS : submitPlain(plain, stream);
    if (code == CudaDriver.SUCCESS) {
      code = rows.submit(path, stream);
      refusedStrided = code != CudaDriver.SUCCESS;
    }
    return code;
  }

  private int submitPlain(int plain, long stream) {
    if (!pinned || path == CudaCopyPath.LOOP) {
      return loop(plain, stream);
    }
    if (ofOneLength) {
      return batches(destinations, sources, lengths, plain, stream);
    }
    int code = CudaDriver.SUCCESS;
    for (int i = 0; i < plain && code == CudaDriver.SUCCESS; i++) {
      if (lengths.getAtIndex(JAVA_LONG, i) != 0) {
        int copies = gather(i, plain);
        code = batches(callDestinations, callSources, callLengths, copies, stream);
      }
    }
    return code;
  }

  /** Collects the copies of the length of {@code first}; their lengths are 0 afterwards. */
  private int gather(int first, int plain) {
    long length = lengths.getAtIndex(JAVA_LONG, first);
    int copies = 0;
    for (int i = first; i < plain; i++) {
      if (lengths.getAtIndex(JAVA_LONG, i) == length) {
        lengths.setAtIndex(JAVA_LONG, i, 0);
        callDestinations.setAtIndex(JAVA_LONG, copies, destinations.getAtIndex(JAVA_LONG, i));
        callSources.setAtIndex(JAVA_LONG, copies, sources.getAtIndex(JAVA_LONG, i));
        callLengths.setAtIndex(JAVA_LONG, copies, length);
        copies++;
      }
    }
    return copies;
  }

  /** Submits copies of one length. */
  private int batches(
      MemorySegment to, MemorySegment from, MemorySegment length, int copies, long stream) {
    int code = CudaDriver.SUCCESS;
    for (int i = 0; i < copies && code == CudaDriver.SUCCESS; i += COPIES_A_CALL) {
      code = batch(at(to, i), at(from, i), length, Math.min(COPIES_A_CALL, copies - i), stream);
    }
    return code;
  }

  private static MemorySegment at(MemorySegment array, int index) {
    return index == 0 ? array : array.asSlice(8L * index);
  }

  /**
   * One call, with what goes before small loads: a stream may be at rest by now whose last slice
   * has not been seen to end. Rows of what else is strided have nothing before them: it is because
   * the processor writes them that they help ({@link CudaSections}).
   */
  private int batch(
      MemorySegment to, MemorySegment from, MemorySegment length, int copies, long stream) {
    if (lead != null
        && !stridedHere
        && copies >= WORTH_A_LEAD
        && length.get(JAVA_LONG, 0) < CudaLead.BYTES) {
      int code = lead.submit(stream);
      if (code != CudaDriver.SUCCESS) {
        return code;
      }
    }
    if (onARestingStream) {
      awaitRest(stream);
    }
    return path == CudaCopyPath.BATCH_V2
        ? driver.batchV2(to, from, length, copies, attributes, firstIndex, stream)
        : driver.batchV1(to, from, length, copies, attributes, firstIndex, failIndex, stream);
  }

  /**
   * The processor writes only what meets nothing on its stream, be it the end of the call before.
   * For a while: a call that comes too early is slower to help, not wrong.
   */
  private void awaitRest(long stream) {
    long begin = System.nanoTime();
    while (driver.queryStream(stream) == CudaDriver.NOT_READY
        && System.nanoTime() - begin < REST_NANOS) {
      Thread.onSpinWait();
    }
  }

  /**
   * Uses simpler calls after the last slice failed, up to {@link #simplifyNoMore}: no strided
   * copies if it was one of them, else no batches.
   *
   * @param forGood the driver will never take them
   * @return false if there is nothing simpler
   */
  boolean simplify(boolean forGood) {
    if (!pinned) {
      return false;
    }
    if (refusedStrided) {
      refusedStrided = false;
      strided = false;
      neverStrided |= forGood;
      return true;
    }
    boolean batched = path != CudaCopyPath.LOOP;
    path = CudaCopyPath.LOOP;
    neverBatched |= forGood && batched;
    return batched;
  }

  /** Uses all again that the driver has not refused for good. */
  void simplifyNoMore() {
    path = neverBatched ? CudaCopyPath.LOOP : wanted;
    strided = !neverStrided;
  }

  private int loop(int copies, long stream) {
    for (int i = 0; i < copies; i++) {
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
