package io.flexkv.device;

/**
 * The copies of one slice. Each is {@code rows} rows of {@code width} bytes; a plain copy has one.
 * Neighbouring plain copies are merged as they are added, ascending and descending, because no
 * driver does it. Owned by one thread; reused for every slice.
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

  private final long[] fields;
  private int count;
  private long bytes;

  /** The first host byte of all copies, and the one after the last. */
  private long hostStart;

  private long hostEnd;

  /** Of the last copy; no neighbour joins one that is not plain. */
  private boolean lastIsPlain;

  private long lastDevice;
  private long lastHost;
  private long lastLength;

  /** Room for {@code capacity} copies. */
  public CopySlice(int capacity) {
    this.fields = new long[FIELDS * capacity];
    clear();
  }

  /** Forgets all copies. */
  public void clear() {
    count = 0;
    bytes = 0;
    hostStart = Long.MAX_VALUE;
    hostEnd = Long.MIN_VALUE;
    lastIsPlain = false;
  }

  /**
   * Adds a plain copy, or lengthens the last one if this is its neighbour on both sides.
   *
   * @return false if there is no room, and nothing was added
   */
  public boolean add(long deviceAddress, long hostAddress, long length) {
    if (lastIsPlain && join(deviceAddress, hostAddress, length)) {
      fields[FIELDS * (count - 1) + DEVICE] = lastDevice;
      fields[FIELDS * (count - 1) + HOST] = lastHost;
      fields[FIELDS * (count - 1) + WIDTH] = lastLength;
    } else {
      if (!append(deviceAddress, hostAddress, length, 1, length, length)) {
        return false;
      }
      lastIsPlain = true;
      lastDevice = deviceAddress;
      lastHost = hostAddress;
      lastLength = length;
    }
    covers(hostAddress, length);
    bytes += length;
    return true;
  }

  private boolean join(long deviceAddress, long hostAddress, long length) {
    if (deviceAddress == lastDevice + lastLength && hostAddress == lastHost + lastLength) {
      lastLength += length;
      return true;
    }
    if (deviceAddress + length == lastDevice && hostAddress + length == lastHost) {
      lastDevice = deviceAddress;
      lastHost = hostAddress;
      lastLength += length;
      return true;
    }
    return false;
  }

  private void covers(long hostAddress, long length) {
    hostStart = Math.min(hostStart, hostAddress);
    hostEnd = Math.max(hostEnd, hostAddress + length);
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
    if (!append(deviceAddress, hostAddress, width, rows, devicePitch, hostPitch)) {
      return false;
    }
    lastIsPlain = false;
    covers(hostAddress, (rows - 1) * hostPitch + width);
    bytes += width * rows;
    return true;
  }

  private boolean append(
      long deviceAddress,
      long hostAddress,
      long width,
      long rows,
      long devicePitch,
      long hostPitch) {
    int at = FIELDS * count;
    if (at == fields.length) {
      return false;
    }
    fields[at + DEVICE] = deviceAddress;
    fields[at + HOST] = hostAddress;
    fields[at + WIDTH] = width;
    fields[at + ROWS] = rows;
    fields[at + DEVICE_PITCH] = devicePitch;
    fields[at + HOST_PITCH] = hostPitch;
    count++;
    return true;
  }

  private long get(int index, int field) {
    return fields[FIELDS * index + field];
  }

  /** How many copies, after merging. */
  public int count() {
    return count;
  }

  /** Bytes of all of them. */
  public long bytes() {
    return bytes;
  }

  /** The first host byte of all copies; no meaning without one. */
  long hostStart() {
    return hostStart;
  }

  /** The host byte after the last of all copies; no meaning without one. */
  long hostEnd() {
    return hostEnd;
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
