package io.flexkv.device;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * The copies of one slice. Each is {@code rows} rows of {@code width} bytes; a plain copy has one.
 * Neighbouring plain copies are merged as they are added, ascending and descending, because no
 * driver does it. Owned by one thread; reused for every slice.
 *
 * <pre>
 *   0 u64 device address of row 0   8 u64 host address of row 0   16 u64 width in bytes
 *  24 u64 rows                     32 u64 device pitch           40 u64 host pitch
 * </pre>
 *
 * <p>A device address is the backend's: {@link DeviceMemory#regionAddress} plus an offset. All rows
 * of one copy lie in one allocation of the engine and in one segment of the pool.
 */
public final class CopySlice {
  private static final int DEVICE = 0;
  private static final int HOST = 1;
  private static final int WIDTH = 2;
  private static final int ROWS = 3;
  private static final int DEVICE_PITCH = 4;
  private static final int HOST_PITCH = 5;
  private static final int FIELDS = 6;

  private final MemorySegment fields;
  private final int capacity;
  private int count;
  private long bytes;

  /** Room for {@code capacity} copies. */
  public CopySlice(int capacity) {
    this.capacity = capacity;
    this.fields = Arena.ofAuto().allocate(8L * FIELDS * capacity, 8);
  }

  /** Forgets all copies. */
  public void clear() {
    count = 0;
    bytes = 0;
  }

  /**
   * Adds a plain copy, or lengthens the last one if this is its neighbour on both sides.
   *
   * @return false if there is no room, and nothing was added
   */
  public boolean add(long deviceAddress, long hostAddress, long length) {
    if (count > 0 && rows(count - 1) == 1) {
      int last = count - 1;
      long lastDevice = deviceAddress(last);
      long lastHost = hostAddress(last);
      long lastLength = width(last);
      if (deviceAddress == lastDevice + lastLength && hostAddress == lastHost + lastLength) {
        set(last, WIDTH, lastLength + length);
        bytes += length;
        return true;
      }
      if (deviceAddress + length == lastDevice && hostAddress + length == lastHost) {
        set(last, DEVICE, deviceAddress);
        set(last, HOST, hostAddress);
        set(last, WIDTH, lastLength + length);
        bytes += length;
        return true;
      }
    }
    return append(deviceAddress, hostAddress, length, 1, length, length);
  }

  /**
   * Adds a strided copy: row i lies at i pitches from row 0 on either side.
   *
   * @param devicePitch at least {@code width}, as is {@code hostPitch}
   * @return false if there is no room, and nothing was added
   */
  public boolean addRows(
      long deviceAddress,
      long hostAddress,
      long width,
      long rows,
      long devicePitch,
      long hostPitch) {
    if (rows < 1 || width < 1 || devicePitch < width || hostPitch < width) {
      throw new IllegalArgumentException(
          "strided copy: rows=%d width=%d devicePitch=%d hostPitch=%d"
              .formatted(rows, width, devicePitch, hostPitch));
    }
    if (rows == 1 || (devicePitch == width && hostPitch == width)) {
      return add(deviceAddress, hostAddress, width * rows);
    }
    return append(deviceAddress, hostAddress, width, rows, devicePitch, hostPitch);
  }

  private boolean append(
      long deviceAddress,
      long hostAddress,
      long width,
      long rows,
      long devicePitch,
      long hostPitch) {
    if (count == capacity) {
      return false;
    }
    set(count, DEVICE, deviceAddress);
    set(count, HOST, hostAddress);
    set(count, WIDTH, width);
    set(count, ROWS, rows);
    set(count, DEVICE_PITCH, devicePitch);
    set(count, HOST_PITCH, hostPitch);
    count++;
    bytes += width * rows;
    return true;
  }

  private void set(int index, int field, long value) {
    fields.setAtIndex(ValueLayout.JAVA_LONG, (long) FIELDS * index + field, value);
  }

  private long get(int index, int field) {
    return fields.getAtIndex(ValueLayout.JAVA_LONG, (long) FIELDS * index + field);
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
    return get(index, DEVICE);
  }

  public long hostAddress(int index) {
    return get(index, HOST);
  }

  /** Bytes of one row; of the whole copy where it has one row. */
  public long width(int index) {
    return get(index, WIDTH);
  }

  /** How many rows; 1 for a plain copy. */
  public long rows(int index) {
    return get(index, ROWS);
  }

  public long devicePitch(int index) {
    return get(index, DEVICE_PITCH);
  }

  public long hostPitch(int index) {
    return get(index, HOST_PITCH);
  }

  /** Bytes on the host side from the first byte of the copy to its last. */
  long hostExtent(int index) {
    return (rows(index) - 1) * hostPitch(index) + width(index);
  }
}
