package io.flexkv.tier.ssd;

import io.flexkv.ffm.DirectFile;
import io.flexkv.ffm.Errno;
import java.lang.System.Logger.Level;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.locks.LockSupport;
import org.jspecify.annotations.Nullable;

/**
 * Accesses by platform threads that each wait for {@code pread} or {@code pwrite}. Works wherever
 * {@code O_DIRECT} does.
 *
 * <p>The calls are the C library's and not {@code FileChannel}'s, for they tell EIO from EAGAIN,
 * take an address instead of a buffer object, and use the same descriptors as {@link UringBlockIo}.
 */
final class ThreadBlockIo implements BlockIo {
  private static final System.Logger LOG = System.getLogger(ThreadBlockIo.class.getName());
  private static final long RETRY_NANOS = 200_000;

  private volatile List<DirectFile> files;
  private final IoFaults faults;
  private final IoQueue queue;
  private final List<Thread> threads = new ArrayList<>();

  /** By thread: when its access began, 0 = none. */
  private final AtomicLongArray begun;

  ThreadBlockIo(String name, List<DirectFile> files, int threadCount, IoFaults faults) {
    this.files = List.copyOf(files);
    this.faults = faults;
    // Of those that write some compute checksums meanwhile, and reads find a thread at any time.
    this.queue = new IoQueue(Math.max(1, threadCount * 3 / 4));
    this.begun = new AtomicLongArray(threadCount);
    for (int i = 0; i < threadCount; i++) {
      int index = i;
      threads.add(Thread.ofPlatform().daemon().name(name + "-" + i).start(() -> run(index)));
    }
  }

  @Override
  public void submit(BlockOp op) {
    if (!queue.offer(op)) {
      op.done(Errno.ECANCELED);
    }
  }

  @Override
  public void useFiles(List<DirectFile> these) {
    files = List.copyOf(these);
  }

  private void run(int index) {
    BlockOp op;
    while ((op = queue.take()) != null) {
      int errno = Errno.EIO;
      try {
        begun.set(index, nonZero(System.nanoTime()));
        boolean wanted = op.begin();
        if (wanted) {
          op.meanwhile();
        }
        errno = wanted ? transfer(op) : Errno.ECANCELED;
      } catch (RuntimeException e) {
        LOG.log(Level.ERROR, "an access ended by an error of the program", e);
      } finally {
        begun.set(index, 0);
        queue.finished(op);
      }
      done(op, errno);
    }
  }

  static long nonZero(long nanos) {
    return nanos == 0 ? 1 : nanos;
  }

  /** The thread outlives whatever the end of one access throws. */
  static void done(BlockOp op, int errno) {
    try {
      op.done(errno);
    } catch (RuntimeException e) {
      LOG.log(Level.ERROR, "the end of an access failed", e);
    }
  }

  private int transfer(BlockOp op) {
    DirectFile file = files.get(op.file());
    while (true) {
      int permitted = faults.permit(op, op.rest());
      long result = permitted;
      if (permitted >= 0) {
        result =
            op.isWrite()
                ? file.write(op.at(), op.memory(), permitted)
                : file.read(op.at(), op.memory(), permitted);
      }
      int errno = op.advance(result);
      if (errno != BlockOp.MORE) {
        return errno;
      }
      if (result == -Errno.EAGAIN) {
        LockSupport.parkNanos(RETRY_NANOS);
      }
    }
  }

  @Override
  public void dropQueued() {
    for (BlockOp op : queue.drain()) {
      done(op, Errno.ECANCELED);
    }
  }

  @Override
  public long oldestNanos() {
    return oldest(begun);
  }

  static long oldest(AtomicLongArray begun) {
    long now = System.nanoTime();
    long age = -1;
    for (int i = 0; i < begun.length(); i++) {
      long at = begun.get(i);
      age = at == 0 ? age : Math.max(age, now - at);
    }
    return age < 0 ? Long.MAX_VALUE : now - age;
  }

  @Override
  public int inFlight() {
    int count = 0;
    for (int i = 0; i < begun.length(); i++) {
      count += begun.get(i) == 0 ? 0 : 1;
    }
    return count;
  }

  @Override
  public CompletableFuture<Void> registerMemory(List<MemorySegment> ranges) {
    return CompletableFuture.completedFuture(null); // pread needs no registration
  }

  @Override
  public String describe() {
    return threads.size() + " threads";
  }

  @Override
  public boolean close(long timeoutNanos) {
    queue.close();
    dropQueued();
    return joinAll(threads, timeoutNanos);
  }

  static boolean joinAll(List<Thread> threads, long timeoutNanos) {
    long deadline = System.nanoTime() + timeoutNanos;
    boolean ended = true;
    for (Thread thread : threads) {
      ended &= join(thread, deadline);
    }
    return ended;
  }

  private static boolean join(@Nullable Thread thread, long deadline) {
    if (thread == null) {
      return true;
    }
    try {
      long left = Math.max(1, deadline - System.nanoTime());
      return thread.join(java.time.Duration.ofNanos(left));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return !thread.isAlive();
    }
  }
}
