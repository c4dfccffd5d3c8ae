package io.flexkv.transfer;

import io.flexkv.device.CopySlice;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Region;
import io.flexkv.device.SliceLimits;
import java.util.List;

/**
 * A rank's layout as flat arrays, and the arithmetic from (block, region, offset) to the copies
 * that move a job.
 *
 * <p><b>Which copies.</b> Rows that the device moves well by themselves go one by one; so do all on
 * a device that knows nothing better. Small rows ({@link SliceLimits#stridedWidth}) go as strided
 * copies, of whatever has more rows:
 *
 * <ul>
 *   <li><i>A block's layers.</i> Regions that follow one another at one stride in one allocation
 *       (vLLM's single backing buffer) form a <em>column</em>: a block is one copy a column, device
 *       pitch the layer stride, host pitch the row, since a host image is its regions one after
 *       another.
 *   <li><i>A run of blocks.</i> Block ids that are neighbours, in slots at one distance from each
 *       other in the same order: each region is one copy, device pitch the block stride, host pitch
 *       that distance. This needs no common allocation of the layers.
 * </ul>
 */
final class Geometry {
  /** Longer runs gain nothing, and a job's cursor should move on. */
  private static final int MAX_RUN = 64;

  private final int blocks;
  private final long partBytes;
  private final long widest;
  private final long[] deviceAddress;
  private final long[] blockStride;
  private final long[] bytes;
  private final long[] hostOffset;

  /** How many regions from this one on form one column, 1 = none with it. */
  private final int[] columnRows;

  /** The stride of that column. */
  private final long[] columnPitch;

  /** Rows of the shortest column that a block consists of. */
  private final int shortestColumn;

  Geometry(DeviceMemory memory) {
    List<Region> regions = memory.layout().regions();
    int count = regions.size();
    this.blocks = memory.layout().blocks();
    this.deviceAddress = new long[count];
    this.blockStride = new long[count];
    this.bytes = new long[count];
    this.hostOffset = new long[count];
    long offset = 0;
    long largest = 0;
    for (int i = 0; i < count; i++) {
      deviceAddress[i] = memory.regionAddress(i);
      blockStride[i] = regions.get(i).blockStride();
      bytes[i] = regions.get(i).bytesPerBlock();
      hostOffset[i] = offset;
      offset += bytes[i];
      largest = Math.max(largest, bytes[i]);
    }
    this.partBytes = offset;
    this.widest = largest;
    this.columnRows = new int[count];
    this.columnPitch = new long[count];
    this.shortestColumn = findColumns(regions);
  }

  private int findColumns(List<Region> regions) {
    int shortest = Integer.MAX_VALUE;
    for (int from = 0; from < regions.size(); ) {
      int to = from + 1;
      long pitch = to < regions.size() ? deviceAddress[to] - deviceAddress[from] : 0;
      while (to < regions.size() && follows(regions, to, pitch)) {
        to++;
      }
      shortest = Math.min(shortest, to - from);
      for (int i = from; i < to; i++) {
        columnRows[i] = to - i;
        columnPitch[i] = pitch;
      }
      from = to;
    }
    return shortest;
  }

  private boolean follows(List<Region> regions, int region, long pitch) {
    Region before = regions.get(region - 1);
    Region here = regions.get(region);
    return here.allocation() == before.allocation()
        && here.bytesPerBlock() == before.bytesPerBlock()
        && here.blockStride() == before.blockStride()
        && deviceAddress[region] - deviceAddress[region - 1] == pitch
        && pitch >= here.bytesPerBlock();
  }

  /** The first block number of the job that the layout does not have, -1 if all are there. */
  int firstForeign(int[] gpuBlocks) {
    for (int block : gpuBlocks) {
      if (block < 0 || block >= blocks) {
        return block;
      }
    }
    return -1;
  }

  int blocks() {
    return blocks;
  }

  /** Puts as much of the job as fits into the slice and moves the job's cursor. */
  void fill(CopySlice slice, JobState state, SliceLimits limits) {
    int until = state.limit();
    while (state.block < until && slice.bytes() < limits.bytes()) {
      if (state.run == 0) {
        state.run = runFrom(state.job, state.block, until, limits);
      }
      boolean added = state.run > 1 ? addRun(slice, state, limits) : addBlock(slice, state, limits);
      if (!added) {
        return;
      }
      if (state.region == bytes.length) {
        state.region = 0;
        state.block += state.run;
        state.run = 0;
      }
    }
  }

  /** One region, or what is left of one column, of the block at the cursor. */
  private boolean addBlock(CopySlice slice, JobState state, SliceLimits limits) {
    int region = state.region;
    long width = bytes[region];
    long room = limits.bytes() - slice.bytes();
    long device = device(region, state.job.gpuBlocks()[state.block]) + state.offset;
    long host = state.job.hostAddresses()[state.block] + hostOffset[region] + state.offset;
    int rows = columnRows[region];
    if (rows > 1 && state.offset == 0 && width <= limits.stridedWidth() && 2 * width <= room) {
      rows = (int) Math.min(rows, room / width);
      if (!slice.addRows(device, host, width, rows, columnPitch[region], width)) {
        return false;
      }
      state.region += rows;
      return true;
    }
    long length = Math.min(width - state.offset, room);
    if (!slice.add(device, host, length)) {
      return false;
    }
    state.offset += length;
    if (state.offset == width) {
      state.offset = 0;
      state.region++;
    }
    return true;
  }

  /** One region of all blocks of the run at the cursor. */
  private boolean addRun(CopySlice slice, JobState state, SliceLimits limits) {
    int region = state.region;
    long width = bytes[region];
    if (width * state.run > limits.bytes() - slice.bytes() && slice.count() > 0) {
      return false;
    }
    int[] gpuBlocks = state.job.gpuBlocks();
    long[] hosts = state.job.hostAddresses();
    boolean ascending = gpuBlocks[state.block + 1] > gpuBlocks[state.block];
    int first = ascending ? state.block : state.block + state.run - 1;
    if (!slice.addRows(
        device(region, gpuBlocks[first]),
        hosts[first] + hostOffset[region],
        width,
        state.run,
        blockStride[region],
        Math.abs(hosts[state.block + 1] - hosts[state.block]))) {
      return false;
    }
    state.region++;
    return true;
  }

  private long device(int region, int block) {
    return deviceAddress[region] + block * blockStride[region];
  }

  /**
   * How many blocks from {@code from} on to move region by region: 1 if that gains nothing. Both
   * numbers and places of a run go up, or both go down; its rows fit one slice.
   */
  private int runFrom(TransferJob job, int from, int until, SliceLimits limits) {
    int[] gpuBlocks = job.gpuBlocks();
    long[] hosts = job.hostAddresses();
    int longest =
        widest > limits.stridedWidth()
            ? 1
            : (int) Math.min(Math.min(MAX_RUN, until - from), limits.bytes() / widest);
    if (longest < 2) {
      return 1;
    }
    int step = gpuBlocks[from + 1] - gpuBlocks[from];
    long distance = hosts[from + 1] - hosts[from];
    if (step * distance < partBytes || Math.abs(step) != 1) {
      return 1;
    }
    int run = 2;
    while (run < longest
        && gpuBlocks[from + run] - gpuBlocks[from + run - 1] == step
        && hosts[from + run] - hosts[from + run - 1] == distance) {
      run++;
    }
    return run > shortestColumn ? run : 1;
  }
}
