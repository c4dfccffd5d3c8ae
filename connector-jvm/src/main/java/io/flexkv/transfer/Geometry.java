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
 * <p>Regions that follow one another at one stride in one allocation (vLLM's single backing buffer)
 * form a <em>column</em>. Where the device moves such rows better together ({@link
 * SliceLimits#strided}), a block is one strided copy a column: device pitch the layer stride, host
 * pitch the row, since a host image is its regions one after another. All else goes row by row.
 *
 * <p>Neighbouring blocks of an allocation a layer could be one strided copy a layer as well, a row
 * a block. With eight rows that was hardly faster than row by row below 16 KiB and slower above
 * (measured), so they are not.
 */
final class Geometry {
  /**
   * Strided copies of one slice: each costs the driver some microseconds, and the device rests
   * until the first slice is submitted whole.
   */
  private static final int MAX_STRIDED = 64;

  private final int blocks;
  private final long[] deviceAddress;
  private final long[] blockStride;
  private final long[] bytes;
  private final long[] hostOffset;

  /** How many regions from this one on form one column, 1 = none with it. */
  private final int[] columnRows;

  /** The stride of that column. */
  private final long[] columnPitch;

  Geometry(DeviceMemory memory) {
    List<Region> regions = memory.layout().regions();
    int count = regions.size();
    this.blocks = memory.layout().blocks();
    this.deviceAddress = new long[count];
    this.blockStride = new long[count];
    this.bytes = new long[count];
    this.hostOffset = new long[count];
    long offset = 0;
    for (int i = 0; i < count; i++) {
      deviceAddress[i] = memory.regionAddress(i);
      blockStride[i] = regions.get(i).blockStride();
      bytes[i] = regions.get(i).bytesPerBlock();
      hostOffset[i] = offset;
      offset += bytes[i];
    }
    this.columnRows = new int[count];
    this.columnPitch = new long[count];
    findColumns(regions);
  }

  private void findColumns(List<Region> regions) {
    for (int from = 0; from < regions.size(); ) {
      int to = from + 1;
      long pitch = to < regions.size() ? deviceAddress[to] - deviceAddress[from] : 0;
      while (to < regions.size() && follows(regions, to, pitch)) {
        to++;
      }
      for (int i = from; i < to; i++) {
        columnRows[i] = to - i;
        columnPitch[i] = pitch;
      }
      from = to;
    }
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

  /**
   * Puts as much of the job as fits into the slice and moves the job's cursor.
   *
   * @param maxBytes of the slice, at most the limits' bytes
   */
  void fill(CopySlice slice, JobState state, SliceLimits limits, long maxBytes) {
    int until = state.limit();
    int strided = 0;
    while (state.block < until && slice.bytes() < maxBytes) {
      int region = state.region;
      long room = maxBytes - slice.bytes();
      boolean column =
          columnRows[region] > 1
              && state.offset == 0
              && limits.strided(bytes[region], columnPitch[region]);
      if (column && slice.count() > 0 && isBetterInTheNext(region, room, maxBytes)) {
        return;
      }
      column &= 2 * bytes[region] <= room;
      if (column && ++strided > MAX_STRIDED) {
        return;
      }
      boolean added = column ? addColumn(slice, state, maxBytes) : addRow(slice, state, maxBytes);
      if (!added) {
        return;
      }
      if (columnRows[region] == 1) {
        addRowsThatFit(slice, state, maxBytes);
      }
      if (state.region == bytes.length) {
        state.region = 0;
        state.block++;
      }
    }
  }

  /**
   * Whether the column at the cursor does not fit and would fit a slice of its own: one batched
   * call takes columns of one height alone, and a row by itself is none.
   */
  private boolean isBetterInTheNext(int region, long room, long maxBytes) {
    long whole = columnRows[region] * bytes[region];
    return room < whole && (whole <= maxBytes || room < 2 * bytes[region]);
  }

  /** As much as has room of what is left of the column at the cursor. */
  private boolean addColumn(CopySlice slice, JobState state, long maxBytes) {
    int region = state.region;
    long width = bytes[region];
    long rows = Math.min(columnRows[region], (maxBytes - slice.bytes()) / width);
    if (!slice.addRows(device(state), host(state), width, rows, columnPitch[region], width)) {
      return false;
    }
    state.region += (int) rows;
    return true;
  }

  /**
   * What is left of the region at the cursor. It is split only where it is longer than a slice: its
   * pieces would be copies of other lengths than all the rest.
   */
  private boolean addRow(CopySlice slice, JobState state, long maxBytes) {
    long width = bytes[state.region];
    long left = width - state.offset;
    long length = Math.min(left, maxBytes - slice.bytes());
    if ((length < left && slice.count() > 0) || !slice.add(device(state), host(state), length)) {
      return false;
    }
    state.offset += length;
    if (state.offset == width) {
      state.offset = 0;
      state.region++;
    }
    return true;
  }

  /**
   * Whole rows from the cursor on, up to one that could be of a column or the end of the block:
   * nothing that {@link #addRow} would not do, at a fourth of the time for each.
   */
  private void addRowsThatFit(CopySlice slice, JobState state, long maxBytes) {
    if (state.offset != 0) {
      return;
    }
    long block = state.job.gpuBlocks()[state.block];
    long host = state.job.hostAddresses()[state.block];
    int region = state.region;
    while (region < bytes.length && columnRows[region] == 1) {
      long width = bytes[region];
      if (width > maxBytes - slice.bytes()
          || !slice.add(
              deviceAddress[region] + block * blockStride[region],
              host + hostOffset[region],
              width)) {
        break;
      }
      region++;
    }
    state.region = region;
  }

  private long device(JobState state) {
    int block = state.job.gpuBlocks()[state.block];
    return deviceAddress[state.region] + block * blockStride[state.region] + state.offset;
  }

  private long host(JobState state) {
    return state.job.hostAddresses()[state.block] + hostOffset[state.region] + state.offset;
  }
}
