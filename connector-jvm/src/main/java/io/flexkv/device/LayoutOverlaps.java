package io.flexkv.device;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * Proves that no two regions share a byte, in O(n log n).
 *
 * <p>Two regions whose extents (first to last byte) are apart do not. Regions whose extents meet
 * are interleaved, as in a layout that keeps all layers of a block together: there every region
 * must have the same stride S, and then region i uses the residues {@code [offset mod S, + bytes)}
 * of a circle of S bytes; they are disjoint exactly if the arcs are. Interleaved regions of
 * different strides cannot be proved disjoint so and are refused.
 */
final class LayoutOverlaps {
  private record Placed(int index, long start, long end, Region region) {}

  private LayoutOverlaps() {}

  static void check(List<AllocationHandle> allocations, List<Region> regions)
      throws DeviceException {
    checkAllocations(allocations);
    Map<Integer, List<Placed>> byAllocation = new HashMap<>();
    for (int i = 0; i < regions.size(); i++) {
      Region region = regions.get(i);
      byAllocation
          .computeIfAbsent(region.allocation(), allocation -> new ArrayList<>())
          .add(new Placed(i, region.offset(), region.offset() + region.extent(), region));
    }
    for (List<Placed> placed : byAllocation.values()) {
      placed.sort(Comparator.comparingLong(Placed::start));
      int from = 0;
      long end = 0;
      for (int i = 0; i < placed.size(); i++) {
        if (i > from && placed.get(i).start() >= end) {
          checkInterleaved(placed.subList(from, i));
          from = i;
        }
        end = Math.max(end, placed.get(i).end());
      }
      checkInterleaved(placed.subList(from, placed.size()));
    }
  }

  private static void checkInterleaved(List<Placed> cluster) throws DeviceException {
    if (cluster.size() == 1) {
      return;
    }
    Placed first = cluster.getFirst();
    long stride = first.region().blockStride();
    for (Placed other : cluster) {
      if (other.region().blockStride() != stride || other.region().blocks() == 1) {
        throw DeviceException.layout(
            "regions %d and %d interleave with block strides %d and %d (%d blocks): they may share"
                + " bytes",
            first.index(),
            other.index(),
            stride,
            other.region().blockStride(),
            other.region().blocks());
      }
    }
    List<Placed> arcs = new ArrayList<>(cluster);
    arcs.sort(Comparator.comparingLong(placed -> placed.start() % stride));
    for (int i = 0; i < arcs.size(); i++) {
      Placed arc = arcs.get(i);
      Placed next = arcs.get((i + 1) % arcs.size());
      long nextStart = next.start() % stride + (i + 1 == arcs.size() ? stride : 0);
      if (arc.start() % stride + arc.region().bytesPerBlock() > nextStart) {
        throw DeviceException.layout(
            "regions %d and %d share bytes: offsets %d and %d, %d bytes a block, stride %d",
            arc.index(),
            next.index(),
            arc.region().offset(),
            next.region().offset(),
            arc.region().bytesPerBlock(),
            stride);
      }
    }
  }

  /** Two names for the same memory would hide an overlap of regions. */
  private static void checkAllocations(List<AllocationHandle> allocations) throws DeviceException {
    Map<Object, List<long[]>> spaces = new HashMap<>();
    for (int i = 0; i < allocations.size(); i++) {
      switch (allocations.get(i)) {
        case AllocationHandle.ProcessMemory m ->
            add(spaces, "pid " + m.pid(), i, m.address(), m.length());
        case AllocationHandle.CudaIpc m ->
            add(spaces, m.handle().toLowerCase(Locale.ROOT), i, m.offset(), m.length());
        case AllocationHandle.PosixFd m -> add(spaces, "fd " + m.fd(), i, 0, m.length());
        case AllocationHandle.MemFd m -> add(spaces, "fd " + m.fd(), i, m.offset(), m.length());
      }
    }
    for (List<long[]> ranges : spaces.values()) {
      ranges.sort(Comparator.comparingLong(range -> range[1]));
      for (int i = 1; i < ranges.size(); i++) {
        long[] before = ranges.get(i - 1);
        long[] range = ranges.get(i);
        if (before[1] + before[2] > range[1]) {
          throw DeviceException.layout(
              "allocations %d and %d share bytes: 0x%x with length %d, 0x%x",
              before[0], range[0], before[1], before[2], range[1]);
        }
      }
    }
  }

  private static void add(
      Map<Object, List<long[]>> spaces, Object space, long index, long start, long length) {
    spaces.computeIfAbsent(space, key -> new ArrayList<>()).add(new long[] {index, start, length});
  }
}
