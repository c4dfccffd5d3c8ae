package io.flexkv.transfer;

import io.flexkv.device.CopySlice;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.Region;
import java.util.List;

/**
 * A rank's layout as flat arrays, and the arithmetic from (block, region, offset) to the two
 * addresses of a copy.
 */
final class Geometry {
  private final int blocks;
  private final long[] deviceAddress;
  private final long[] blockStride;
  private final long[] bytes;
  private final long[] hostOffset;

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
  void fill(CopySlice slice, JobState state, long maxBytes) {
    int[] gpuBlocks = state.job.gpuBlocks();
    long[] hostAddresses = state.job.hostAddresses();
    while (state.block < gpuBlocks.length && slice.bytes() < maxBytes) {
      int region = state.region;
      long length = Math.min(bytes[region] - state.offset, maxBytes - slice.bytes());
      long device =
          deviceAddress[region] + gpuBlocks[state.block] * blockStride[region] + state.offset;
      long host = hostAddresses[state.block] + hostOffset[region] + state.offset;
      if (!slice.add(device, host, length)) {
        return;
      }
      state.offset += length;
      if (state.offset == bytes[region]) {
        state.offset = 0;
        state.region++;
      }
      if (state.region == bytes.length) {
        state.region = 0;
        state.block++;
      }
    }
  }
}
