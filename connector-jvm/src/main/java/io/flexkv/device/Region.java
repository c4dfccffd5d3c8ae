package io.flexkv.device;

/**
 * Where one layer (or its K, or its V) keeps its share of every block: block b's bytes are {@code
 * [offset + b * blockStride, + bytesPerBlock)} of the allocation.
 *
 * @param allocation index into the layout's allocations
 * @param offset of block 0, from the start of the allocation's usable bytes
 * @param blockStride bytes from one block to the next
 * @param bytesPerBlock bytes that belong to a block
 * @param blocks how many blocks there are
 */
public record Region(
    int allocation, long offset, long blockStride, long bytesPerBlock, int blocks) {
  /** Bytes from the start of block 0 to the end of the last block. */
  long extent() {
    return (blocks - 1) * blockStride + bytesPerBlock;
  }

  /** Offset of a block in the allocation. */
  long offsetOf(int block) {
    return offset + block * blockStride;
  }
}
