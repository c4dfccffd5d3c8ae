package io.flexkv.ffm;

/** The error numbers that callers tell apart (asm-generic, the same on x86-64 and AArch64). */
public final class Errno {
  public static final int EPERM = 1;
  public static final int ENOENT = 2;
  public static final int ESRCH = 3;
  public static final int EINTR = 4;
  public static final int EIO = 5;
  public static final int EBADF = 9;
  public static final int EAGAIN = 11;
  public static final int ENOMEM = 12;
  public static final int EACCES = 13;
  public static final int EFAULT = 14;
  public static final int EBUSY = 16;
  public static final int EINVAL = 22;
  public static final int ENOSPC = 28;
  public static final int EROFS = 30;
  public static final int ENOSYS = 38;
  public static final int EPIPE = 32;
  public static final int EPROTO = 71;
  public static final int EMSGSIZE = 90;
  public static final int EOPNOTSUPP = 95;
  public static final int EADDRINUSE = 98;
  public static final int ECONNABORTED = 103;
  public static final int ECONNRESET = 104;
  public static final int ECONNREFUSED = 111;
  public static final int ECANCELED = 125;

  private Errno() {}

  /** The symbolic name and the usual text, or {@code errno N} for one that nobody tells apart. */
  public static String describe(int errno) {
    return switch (errno) {
      case EPERM -> "EPERM (operation not permitted)";
      case ENOENT -> "ENOENT (no such file)";
      case ESRCH -> "ESRCH (no such process)";
      case EINTR -> "EINTR (interrupted)";
      case EIO -> "EIO (input/output error)";
      case EBADF -> "EBADF (bad file descriptor)";
      case EAGAIN -> "EAGAIN (would block)";
      case ENOMEM -> "ENOMEM (out of memory)";
      case EACCES -> "EACCES (permission denied)";
      case EFAULT -> "EFAULT (bad address)";
      case EBUSY -> "EBUSY (busy)";
      case EINVAL -> "EINVAL (invalid argument)";
      case ENOSPC -> "ENOSPC (no space left on the device)";
      case EROFS -> "EROFS (read-only file system)";
      case ENOSYS -> "ENOSYS (not offered by this kernel)";
      case EPIPE -> "EPIPE (the other side is gone)";
      case EPROTO -> "EPROTO (protocol violated)";
      case EMSGSIZE -> "EMSGSIZE (message too long)";
      case EOPNOTSUPP -> "EOPNOTSUPP (not supported)";
      case EADDRINUSE -> "EADDRINUSE (address in use)";
      case ECONNABORTED -> "ECONNABORTED (gone before it was accepted)";
      case ECONNRESET -> "ECONNRESET (connection reset)";
      case ECONNREFUSED -> "ECONNREFUSED (nobody listens)";
      case ECANCELED -> "ECANCELED (cancelled)";
      default -> "errno " + errno;
    };
  }
}
