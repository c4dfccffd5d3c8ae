package io.flexkv.device;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * The copies of one slice: three native arrays of u64 {device address, host address, length}, in
 * the form that batch calls take. Neighbours are merged as they are added, ascending and
 * descending, because no driver does it. Owned by one thread; reused for every slice.
 *
 * <p>A device address is the backend's: {@link DeviceMemory#regionAddress} plus an offset.
 */
public final class CopySlice {
  private final MemorySegment device;
  private final MemorySegment host;
  private final MemorySegment lengths;
  private final int capacity;
  private int count;
  private long bytes;

  /** Room for {@code capacity} copies. */
  public CopySlice(int capacity) {
    this.capacity = capacity;
    this.device = Arena.ofAuto().allocate(8L * capacity, 8);
    this.host = Arena.ofAuto().allocate(8L * capacity, 8);
    this.lengths = Arena.ofAuto().allocate(8L * capacity, 8);
  }

  /** Forgets all copies. */
  public void clear() {
    count = 0;
    bytes = 0;
  }

  /**
   * Adds a copy, or lengthens the last one if this is its neighbour on both sides.
   *
   * @return false if there is no room, and nothing was added
   */
  public boolean add(long deviceAddress, long hostAddress, long length) {
    if (count > 0) {
      int last = count - 1;
      long lastDevice = deviceAddress(last);
      long lastHost = hostAddress(last);
      long lastLength = length(last);
      if (deviceAddress == lastDevice + lastLength && hostAddress == lastHost + lastLength) {
        lengths.setAtIndex(ValueLayout.JAVA_LONG, last, lastLength + length);
        bytes += length;
        return true;
      }
      if (deviceAddress + length == lastDevice && hostAddress + length == lastHost) {
        device.setAtIndex(ValueLayout.JAVA_LONG, last, deviceAddress);
        host.setAtIndex(ValueLayout.JAVA_LONG, last, hostAddress);
        lengths.setAtIndex(ValueLayout.JAVA_LONG, last, lastLength + length);
        bytes += length;
        return true;
      }
      if (count == capacity) {
        return false;
      }
    }
    device.setAtIndex(ValueLayout.JAVA_LONG, count, deviceAddress);
    host.setAtIndex(ValueLayout.JAVA_LONG, count, hostAddress);
    lengths.setAtIndex(ValueLayout.JAVA_LONG, count, length);
    count++;
    bytes += length;
    return true;
  }

  /** How many copies, after merging. */
  public int count() {
    return count;
  }

  /** Bytes of all of them. */
  public long bytes() {
    return bytes;
  }

  public long deviceAddress(int index) {
    return device.getAtIndex(ValueLayout.JAVA_LONG, index);
  }

  public long hostAddress(int index) {
    return host.getAtIndex(ValueLayout.JAVA_LONG, index);
  }

  public long length(int index) {
    return lengths.getAtIndex(ValueLayout.JAVA_LONG, index);
  }

  /** u64[count] of device addresses. */
  MemorySegment deviceArray() {
    return device;
  }

  /** u64[count] of host addresses. */
  MemorySegment hostArray() {
    return host;
  }

  /** u64[count] of lengths. */
  MemorySegment lengthArray() {
    return lengths;
  }
}
