package io.flexkv.ffm;

import java.io.IOException;

/** A call of the C library failed; the text holds the call with its arguments, and errno. */
public final class ErrnoException extends IOException {
  private static final long serialVersionUID = 1L;

  private final int errno;

  /**
   * @param call the call with the arguments that matter, e.g. {@code mmap(fd=5, length=4096)}
   * @param errno one of {@link Errno} or any other error number
   */
  public ErrnoException(String call, int errno) {
    super(call + " failed: " + Errno.describe(errno));
    this.errno = errno;
  }

  /** The error number as the call left it. */
  public int errno() {
    return errno;
  }
}
