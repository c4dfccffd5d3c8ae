package io.flexkv.device;

import java.util.List;

/**
 * Where the KV of one rank lies: its allocations and regions, checked. A block's host image is its
 * regions one after another, {@link #partBytes} in all.
 *
 * <p>An instance exists only if every region lies inside its allocation, no two regions share a
 * byte, and all regions have the same number of blocks; so code behind it computes addresses
 * without further checks of a region, only of block numbers.
 *
 * @param partBytes bytes of one block of this rank
 * @param fingerprint what the engine calls this layout; equal fingerprints may share bytes
 */
public record RankLayout(
    List<AllocationHandle> allocations, List<Region> regions, long partBytes, String fingerprint) {
  public static final int MAX_ALLOCATIONS = 4096;
  public static final int MAX_REGIONS = 65_536;
  public static final int MAX_BLOCKS = 1 << 24;

  /** Bytes that one block of one rank may have. */
  public static final long MAX_PART_BYTES = 1L << 32;

  private static final long MAX_ADDRESS = 1L << 57;

  /**
   * @throws IllegalArgumentException if it was not checked by {@link #of} and is wrong
   */
  public RankLayout {
    allocations = List.copyOf(allocations);
    regions = List.copyOf(regions);
    try {
      check(allocations, regions, partBytes);
    } catch (DeviceException e) {
      throw new IllegalArgumentException(e.getMessage(), e);
    }
  }

  /**
   * Checks a registration.
   *
   * @throws DeviceException of kind LAYOUT, with the first thing that is wrong
   */
  public static RankLayout of(
      List<AllocationHandle> allocations, List<Region> regions, String fingerprint)
      throws DeviceException {
    long partBytes = 0;
    for (Region region : regions) {
      partBytes += Math.min(Math.max(0, region.bytesPerBlock()), MAX_PART_BYTES + 1);
    }
    check(allocations, regions, partBytes);
    return new RankLayout(allocations, regions, partBytes, fingerprint);
  }

  /** How many blocks every region has. */
  public int blocks() {
    return regions.getFirst().blocks();
  }

  /** {@link AllocationHandle.CudaIpc#gpu} of the GPU it lies on; empty where it is on none. */
  public String gpu() {
    return allocations.getFirst() instanceof AllocationHandle.CudaIpc memory ? memory.gpu() : "";
  }

  private static void check(
      List<AllocationHandle> allocations, List<Region> regions, long partBytes)
      throws DeviceException {
    if (allocations.isEmpty() || allocations.size() > MAX_ALLOCATIONS) {
      throw DeviceException.layout(
          "%d allocations, wanted 1 to %d", allocations.size(), MAX_ALLOCATIONS);
    }
    if (regions.isEmpty() || regions.size() > MAX_REGIONS) {
      throw DeviceException.layout("%d regions, wanted 1 to %d", regions.size(), MAX_REGIONS);
    }
    for (int i = 0; i < allocations.size(); i++) {
      checkAllocation(i, allocations.get(i));
    }
    long sum = 0;
    for (int i = 0; i < regions.size(); i++) {
      checkRegion(i, regions.get(i), allocations, regions.getFirst().blocks());
      sum += regions.get(i).bytesPerBlock();
    }
    if (sum != partBytes || sum > MAX_PART_BYTES) {
      throw DeviceException.layout(
          "a block has %d bytes, regions add up to %d, limit %d", partBytes, sum, MAX_PART_BYTES);
    }
    LayoutOverlaps.check(allocations, regions);
  }

  private static void checkAllocation(int index, AllocationHandle handle) throws DeviceException {
    if (handle.length() <= 0 || handle.length() > MAX_ADDRESS) {
      throw DeviceException.layout(
          "allocation %d has length %d, wanted 1 to %d", index, handle.length(), MAX_ADDRESS);
    }
    switch (handle) {
      case AllocationHandle.ProcessMemory memory -> {
        if (memory.pid() <= 0
            || memory.address() <= 0
            || memory.address() > MAX_ADDRESS - memory.length()) {
          throw DeviceException.layout(
              "allocation %d: pid %d, address 0x%x, length %d",
              index, memory.pid(), memory.address(), memory.length());
        }
      }
      case AllocationHandle.CudaIpc memory -> {
        if (!memory.handle().matches("[0-9a-fA-F]{128}")
            || memory.offset() < 0
            || memory.offset() > MAX_ADDRESS - memory.length()) {
          throw DeviceException.layout(
              "allocation %d: handle '%s' (wanted 128 hex digits), offset %d, length %d",
              index, memory.handle(), memory.offset(), memory.length());
        }
      }
      case AllocationHandle.PosixFd memory -> checkFd(index, memory.fd());
      case AllocationHandle.MemFd memory -> checkFd(index, memory.fd());
    }
  }

  private static void checkFd(int index, int fd) throws DeviceException {
    if (fd < 0) {
      throw DeviceException.layout("allocation %d: file descriptor %d", index, fd);
    }
  }

  private static void checkRegion(
      int index, Region region, List<AllocationHandle> allocations, int blocks)
      throws DeviceException {
    if (region.allocation() < 0 || region.allocation() >= allocations.size()) {
      throw DeviceException.layout(
          "region %d lies in allocation %d of %d", index, region.allocation(), allocations.size());
    }
    if (region.blocks() < 1 || region.blocks() > MAX_BLOCKS || region.blocks() != blocks) {
      throw DeviceException.layout(
          "region %d has %d blocks, wanted %d (region 0) and 1 to %d",
          index, region.blocks(), blocks, MAX_BLOCKS);
    }
    if (region.bytesPerBlock() < 1 || region.bytesPerBlock() > MAX_PART_BYTES) {
      throw DeviceException.layout(
          "region %d has %d bytes a block, wanted 1 to %d",
          index, region.bytesPerBlock(), MAX_PART_BYTES);
    }
    if (region.blockStride() < region.bytesPerBlock() || region.blockStride() > MAX_ADDRESS) {
      throw DeviceException.layout(
          "region %d: block stride %d, wanted at least its %d bytes a block",
          index, region.blockStride(), region.bytesPerBlock());
    }
    long length = allocations.get(region.allocation()).length();
    // In 128 bits: 2^24 blocks times a stride of 2^57 does not fit a long.
    long high = Math.multiplyHigh(region.blocks() - 1L, region.blockStride());
    long span = (region.blocks() - 1L) * region.blockStride();
    if (high != 0
        || span < 0
        || region.offset() < 0
        || region.offset() > length
        || span > length - region.offset()
        || region.bytesPerBlock() > length - region.offset() - span) {
      throw DeviceException.layout(
          "region %d: offset %d, %d blocks of stride %d, %d bytes each, end beyond allocation %d"
              + " of %d bytes",
          index,
          region.offset(),
          region.blocks(),
          region.blockStride(),
          region.bytesPerBlock(),
          region.allocation(),
          length);
    }
  }
}
