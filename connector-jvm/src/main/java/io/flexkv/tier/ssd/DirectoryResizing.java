package io.flexkv.tier.ssd;

import io.flexkv.ffm.Errno;
import java.io.IOException;
import java.lang.System.Logger.Level;
import java.util.concurrent.CompletableFuture;

/**
 * Another size for a directory that serves. What a kill leaves is a directory of the old size or of
 * the new one, whole in either case, with files that the next start cuts to what is described.
 *
 * <p>Larger: its files get their room, the description says so durably, and only then does the
 * space give it out. Smaller: from the cache thread's word on nothing is given out beyond the new
 * end; the core frees what it holds there, the header log moves. When nothing is there any more,
 * and so no access can be under way there, the description says the new end, in both its copies,
 * and only then are the files cut.
 *
 * <p>{@link #begin} to {@link #over} is one thread's at a time, with {@link #resize} in between by
 * the cache thread; {@link #step} is the care thread's.
 */
final class DirectoryResizing {
  private static final System.Logger LOG = System.getLogger(DirectoryResizing.class.getName());

  private final SsdDirectory directory;
  private final DirectoryFiles files;

  /** Extents that its files have. */
  private volatile int onDisk;

  private boolean preparing;
  private boolean givingBack;
  private volatile boolean unsettled;

  DirectoryResizing(SsdDirectory directory) {
    this.directory = directory;
    this.files = directory.files();
    this.onDisk = files.meta().extents;
  }

  /** Nothing is given back from now on; false while that is under way. */
  synchronized boolean begin() {
    preparing = !givingBack;
    return preparing;
  }

  /** The directory has its new size, or keeps the old one. */
  synchronized void over() {
    preparing = false;
  }

  /** Reserves room for so many extents if it has fewer; where that fails all is as before. */
  void reserve(int extents) throws IOException {
    if (extents > files.meta().extents) {
      try {
        files.reserve(extents);
        onDisk = extents;
      } finally {
        directory.io().useFiles(files.all());
      }
    }
  }

  /** Says durably that it has so many, if it has fewer; the answer is 0 or an error number. */
  CompletableFuture<Integer> describe(int extents) {
    CompletableFuture<Integer> done = new CompletableFuture<>();
    directory.whenPossible(() -> {
      try {
        boolean more = extents > files.meta().extents;
        if (more) {
          files.meta().resize(extents);
        }
        done.complete(more ? directory.description().store() : 0);
      } catch (RuntimeException e) {
        done.completeExceptionally(e);
      }
    });
    return done;
  }

  /** It ends here from now on. The cache thread. */
  void resize(int extents) {
    settle();
    DirectorySpace space = directory.space();
    int moves = directory.log().resize(extents);
    space.resize(extents, Math.min(moves, extents / 2)).forEach(directory.log()::dissolved);
  }

  /**
   * The header log needs another extent, and none is free. Where it has to leave what is given back
   * it gets one all the same, for nobody might make room before the next traffic. The cache thread.
   */
  void makeRoomForLog() {
    boolean shrinks;
    synchronized (this) {
      shrinks = !preparing && surplusBytes() > 0;
    }
    DirectorySpace space = directory.space();
    if (shrinks && space.vacant() && !directory.log().vacant()) {
      space.reserveMore().forEach(directory.log()::dissolved);
    }
  }

  /** What was given back is out of the space's sight. The cache thread. */
  void settle() {
    if (unsettled) {
      unsettled = false;
      directory.space().settle();
    }
  }

  /** Bytes that are to go. */
  long surplusBytes() {
    return Math.max(0, onDisk - directory.space().extents()) * files.meta().extentBytes;
  }

  /** Gives back what lies beyond the end, once nothing is there. */
  void step() {
    int end = directory.space().extents();
    synchronized (this) {
      boolean empty = directory.space().vacant() && directory.log().vacant();
      if (preparing || onDisk <= end || !empty) {
        return;
      }
      givingBack = true;
    }
    boolean given = false;
    try {
      given = giveBack(end);
    } finally {
      synchronized (this) {
        givingBack = false;
        onDisk = given ? end : onDisk;
      }
    }
  }

  private boolean giveBack(int end) {
    if (!directory.log().leaveBeyond()) {
      return false; // it took an extent there after all
    }
    DirectoryMeta meta = files.meta();
    long bytes = surplusBytes();
    meta.resize(end);
    meta.cut(directory.log().nextSequence());
    // In both copies: else the loss of one would bring back a size that the files have not.
    int errno = directory.description().storeTwice();
    if (errno != 0) {
      directory.writeFailed(errno);
      return false;
    }
    unsettled = true;
    try {
      try {
        files.trim();
      } finally {
        directory.io().useFiles(files.all());
      }
      LOG.log(
          Level.INFO,
          "SSD directory {0}: {1} MiB given back, it has {2} MiB now",
          directory.path(),
          bytes >> 20,
          (end * meta.extentBytes) >> 20);
    } catch (IOException e) {
      LOG.log(
          Level.WARNING,
          "SSD directory {0}: its files cannot be cut, the next start tries again: {1}",
          directory.path(),
          SsdOpening.why(e));
    }
    return true;
  }

  /** At a start: cuts what a kill, or a smaller share, has left beyond the described end. */
  void trimAtStart() {
    try {
      if (!files.longerThanDescribed()) {
        return;
      }
      files.meta().cut(directory.log().nextSequence());
      int errno = directory.description().store();
      if (errno == 0) {
        files.trim();
        directory.io().useFiles(files.all());
      } else {
        LOG.log(
            Level.WARNING,
            "SSD directory {0}: its files are not cut: {1}",
            directory.path(),
            Errno.describe(errno));
      }
    } catch (IOException e) {
      LOG.log(
          Level.WARNING,
          "SSD directory {0}: its files cannot be cut: {1}",
          directory.path(),
          SsdOpening.why(e));
    }
  }
}
