package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;

/**
 * One access to a disk: {@code length} bytes at {@code offset} of a file, all or nothing. A short
 * read or write is continued where it stopped, EINTR and EAGAIN are tried again a few times.
 *
 * <p>Whoever takes it from the queue owns it until {@link #done}, which is called exactly once.
 */
abstract class BlockOp {
  /** What goes first, in this order. */
  enum Urgency {
    /** The store's own: headers. */
    META,
    READ_LIVE,
    WRITE,
    READ_SPECULATIVE
  }

  /** Answer of {@link #advance}: go on at {@link #at}. */
  static final int MORE = -1;

  private static final int MAX_RETRIES = 64;

  private final Urgency urgency;
  private final boolean write;
  private final int file;
  private final long offset;
  private final long address;
  private final int length;
  private int transferred;
  private int retries;

  BlockOp(Urgency urgency, boolean write, int file, long offset, long address, int length) {
    if (length <= 0
        || (offset | address | length) % SsdStore.PAGE_BYTES != 0
        || address == 0
        || offset < 0) {
      throw new IllegalArgumentException(
          "access to file %d: offset=%d address=0x%x length=%d, wanted multiples of %d"
              .formatted(file, offset, address, length, SsdStore.PAGE_BYTES));
    }
    this.urgency = urgency;
    this.write = write;
    this.file = file;
    this.offset = offset;
    this.address = address;
    this.length = length;
  }

  /**
   * Called right before the disk is asked; false drops the access: {@link #done} is called with
   * ECANCELED.
   */
  abstract boolean begin();

  /** What else is to be done before the end; runs while the disk works, where that is possible. */
  void meanwhile() {}

  /**
   * The end.
   *
   * @param errno 0 if all bytes were transferred, else an error number
   */
  abstract void done(int errno);

  Urgency urgency() {
    return urgency;
  }

  boolean isWrite() {
    return write;
  }

  int file() {
    return file;
  }

  int length() {
    return length;
  }

  /** Where in the file the part begins that is still to be transferred. */
  long at() {
    return offset + transferred;
  }

  /** Its place in memory. */
  long memory() {
    return address + transferred;
  }

  /** Its length. */
  int rest() {
    return length - transferred;
  }

  /**
   * Takes the answer of the disk.
   *
   * @param result bytes, or minus an error number
   * @return 0 at the end, {@link #MORE}, or the error number that ends it
   */
  int advance(long result) {
    if (result < 0) {
      int errno = (int) -result;
      boolean again = errno == Errno.EINTR || errno == Errno.EAGAIN;
      return again && ++retries <= MAX_RETRIES ? MORE : errno;
    }
    if (result == 0) {
      return Errno.EIO; // the file ends here: somebody cut it
    }
    if (result >= rest()) {
      transferred = length;
      return 0;
    }
    // Only whole pages count, for the rest must begin at a page again.
    int whole = (int) (result / SsdStore.PAGE_BYTES * SsdStore.PAGE_BYTES);
    if (whole == 0 && ++retries > MAX_RETRIES) {
      return Errno.EIO;
    }
    transferred += whole;
    return MORE;
  }
}
