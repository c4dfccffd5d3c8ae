package io.flexkv.session;

import io.flexkv.ffm.Errno;
import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.UnixSocket;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * The right to listen at one rendezvous address.
 *
 * <p>A file next to the socket ({@code <socket>.lock}, mode 0600, never removed) is locked for the
 * life of the process, so of several sidecars started at once exactly one goes on; the kernel frees
 * the lock of a dead one. Only the holder of the lock may remove a socket file, and only if nobody
 * answers there.
 */
public final class AddressLock implements AutoCloseable {
  private static final int BACKLOG = 128;

  /** S_IFMT of stat(2), and what it may say. */
  private static final int TYPE_BITS = 0170000;

  private static final int NOTHING = 0;
  private static final int SOCKET = 0140000;
  private static final int FILE = 0100000;
  private static final int FOLDER = 0040000;
  private static final int LINK = 0120000;

  private final Path socketPath;
  private final FileChannel channel;
  private final FileLock lock;

  private AddressLock(Path socketPath, FileChannel channel, FileLock lock) {
    this.socketPath = socketPath;
    this.channel = channel;
    this.lock = lock;
  }

  /** Somebody else serves this address. */
  public static final class OccupiedException extends IOException {
    private static final long serialVersionUID = 1L;

    OccupiedException(String message) {
      super(message);
    }
  }

  /**
   * Takes the address.
   *
   * @param patienceMillis how long to wait for a holder that does not answer (it may be about to
   *     end)
   * @throws OccupiedException if another sidecar serves there
   * @throws IOException if the lock file cannot be had, e.g. because it is another user's, or if
   *     there is something else than a socket
   */
  public static AddressLock take(Path socketPath, long patienceMillis)
      throws IOException, InterruptedException {
    int there = type(socketPath); // of a link, its end: somebody may serve there
    if (there != NOTHING && there != SOCKET) {
      throw inTheWay(socketPath, there);
    }
    Path lockPath = socketPath.resolveSibling(socketPath.getFileName() + ".lock");
    FileChannel channel;
    try {
      channel =
          FileChannel.open(
              lockPath,
              Set.of(
                  StandardOpenOption.CREATE, StandardOpenOption.WRITE, LinkOption.NOFOLLOW_LINKS),
              PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------")));
    } catch (NoSuchFileException e) {
      Path missing = lockPath.toAbsolutePath().getParent();
      throw new IOException(
          ("%s, the folder of the socket, does not exist: make it (mkdir -p %s), or set"
                  + " FLEXKV_SERVER_RECV_PORT to a path in one that does")
              .formatted(missing, missing),
          e);
    } catch (IOException e) {
      throw new IOException(
          "cannot open the lock file %s (%s): set FLEXKV_SERVER_RECV_PORT to a path of your own"
              .formatted(lockPath, e),
          e);
    }
    long deadline = System.nanoTime() + patienceMillis * 1_000_000;
    try {
      while (true) {
        FileLock lock = tryLock(channel);
        if (lock != null) {
          return new AddressLock(socketPath, channel, lock);
        }
        if (answers(socketPath) || System.nanoTime() - deadline >= 0) {
          throw new OccupiedException(
              ("another sidecar holds %s and serves %s: use that one, stop it (flexkv status"
                      + " names its pid), or set FLEXKV_SERVER_RECV_PORT to another path")
                  .formatted(lockPath, socketPath));
        }
        Thread.sleep(20);
      }
    } catch (IOException | InterruptedException | RuntimeException e) {
      channel.close();
      throw e;
    }
  }

  private static @Nullable FileLock tryLock(FileChannel channel) throws IOException {
    try {
      return channel.tryLock();
    } catch (OverlappingFileLockException e) {
      return null; // this very process has it
    }
  }

  private static boolean answers(Path socketPath) {
    try (UnixSocket probe = UnixSocket.connect(socketPath)) {
      return probe.fd() >= 0;
    } catch (ErrnoException e) {
      // A full queue and somebody else's socket are answers, too: nobody there looks different.
      return e.errno() != Errno.ENOENT && e.errno() != Errno.ECONNREFUSED;
    }
  }

  /**
   * Binds the socket (mode 0600), in the place of one that nobody answers at.
   *
   * @throws OccupiedException if somebody answers there who does not hold the lock
   * @throws IOException also if there is something else than a socket, which is left alone: no
   *     sidecar can ever serve there
   */
  public UnixSocket listen() throws IOException {
    try {
      return UnixSocket.listen(socketPath, BACKLOG);
    } catch (ErrnoException e) {
      if (e.errno() != Errno.EADDRINUSE) {
        throw e;
      }
    }
    if (answers(socketPath)) {
      throw new OccupiedException(
          ("somebody serves %s without its lock (another program, or a sidecar whose lock file was"
                  + " removed): stop it, or set FLEXKV_SERVER_RECV_PORT to another path")
              .formatted(socketPath));
    }
    int there = type(socketPath, LinkOption.NOFOLLOW_LINKS);
    if (there == SOCKET) {
      Files.deleteIfExists(socketPath);
    } else if (there != NOTHING) {
      throw inTheWay(socketPath, there);
    }
    return UnixSocket.listen(socketPath, BACKLOG);
  }

  private static IOException inTheWay(Path path, int type) {
    String kind =
        switch (type) {
          case FILE -> "a file";
          case FOLDER -> "a folder";
          case LINK -> "a symbolic link that leads to no socket in use";
          default -> "a device or a pipe";
        };
    return new IOException(
        ("%s is %s, and the socket cannot be made there: set FLEXKV_SERVER_RECV_PORT to another"
                + " path, or move it away")
            .formatted(path, kind));
  }

  /** {@link #NOTHING} also where nobody may look: what is tried there next says why. */
  private static int type(Path path, LinkOption... links) {
    try {
      return (Integer) Files.getAttribute(path, "unix:mode", links) & TYPE_BITS;
    } catch (IOException e) {
      return NOTHING;
    }
  }

  /** Removes the socket file; the address stays ours until {@link #close}. */
  public void unlinkSocket() throws IOException {
    Files.deleteIfExists(socketPath);
  }

  /** Gives the address up. */
  @Override
  public void close() throws IOException {
    try {
      lock.release();
    } finally {
      channel.close();
    }
  }
}
