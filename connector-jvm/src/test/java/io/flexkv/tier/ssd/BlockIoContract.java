package io.flexkv.tier.ssd;

import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.ffm.DirectFile;
import io.flexkv.ffm.Errno;
import io.flexkv.ffm.ErrnoException;
import io.flexkv.ffm.SharedMemory;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What every {@link BlockIo} does, whatever carries it out. */
abstract class BlockIoContract {
  private static final int PAGE = SsdStore.PAGE_BYTES;
  private static final int FILE_PAGES = 256;
  static final long PATIENCE_S = 20;

  @TempDir Path folder;

  private final Arena arena = Arena.ofShared();
  final MemorySegment memory = arena.allocate(2L * FILE_PAGES * PAGE, PAGE);
  private volatile IoFaults faults = IoFaults.NONE;
  private DirectFile file;
  BlockIo io;

  abstract BlockIo open(List<DirectFile> files, IoFaults faults) throws ErrnoException;

  @BeforeEach
  void openFile() throws ErrnoException {
    file = DirectFile.openOrCreate(folder.resolve("data"));
    file.reserve((long) FILE_PAGES * PAGE);
    io = open(List.of(file), (op, length) -> faults.permit(op, length));
    Random random = new Random(1);
    for (long at = 0; at < memory.byteSize() / 2; at += 8) {
      memory.set(ValueLayout.JAVA_LONG, at, random.nextLong());
    }
  }

  @AfterEach
  void close() {
    faults = IoFaults.NONE;
    assertThat(io.close(TimeUnit.SECONDS.toNanos(PATIENCE_S))).isTrue();
    file.close();
    arena.close();
  }

  /** An access whose end a test waits for. */
  static class Access extends BlockOp {
    final CompletableFuture<Integer> end = new CompletableFuture<>();
    final AtomicInteger ends = new AtomicInteger();
    volatile boolean wanted = true;

    Access(Urgency urgency, boolean write, long offset, long address, int length) {
      super(urgency, write, 0, offset, address, length);
    }

    @Override
    boolean begin() {
      return wanted;
    }

    @Override
    void done(int errno) {
      ends.incrementAndGet();
      end.complete(errno);
    }

    int await() throws Exception {
      return end.get(PATIENCE_S, TimeUnit.SECONDS);
    }
  }

  Access submit(boolean write, int page, int pages) {
    long address = memory.address() + (long) page * PAGE + (write ? 0 : memory.byteSize() / 2);
    Access access =
        new Access(
            write ? BlockOp.Urgency.WRITE : BlockOp.Urgency.READ_LIVE,
            write,
            (long) page * PAGE,
            address,
            pages * PAGE);
    io.submit(access);
    return access;
  }

  private void assertSame(int page, int pages) {
    long from = (long) page * PAGE;
    long half = memory.byteSize() / 2;
    MemorySegment written = memory.asSlice(from, (long) pages * PAGE);
    assertThat(memory.asSlice(half + from, (long) pages * PAGE).mismatch(written)).isEqualTo(-1);
  }

  @Test
  void read_afterWrite_hasTheBytes() throws Exception {
    List<Access> all = new ArrayList<>();
    for (int page = 0; page < FILE_PAGES; page += 4) {
      all.add(submit(true, page, 4));
    }
    for (Access access : all) {
      assertThat(access.await()).isZero();
    }
    all.clear();
    for (int page = 0; page < FILE_PAGES; page += 2) {
      all.add(submit(false, page, 2));
    }
    for (Access access : all) {
      assertThat(access.await()).isZero();
      assertThat(access.ends).hasValue(1);
    }
    assertSame(0, FILE_PAGES);
  }

  @Test
  void registeredMemory_readsAndWritesTheSame() throws Exception {
    io.registerMemory(List.of(memory)).get(PATIENCE_S, TimeUnit.SECONDS);
    assertThat(submit(true, 0, FILE_PAGES).await()).isZero();
    assertThat(submit(false, 0, FILE_PAGES).await()).isZero();
    assertSame(0, FILE_PAGES);
  }

  /** As a pool that becomes smaller and larger again: its end has other pages then. */
  @Test
  void registeredMemory_endGivenBackAndThereAgain_readsGoWhereTheProcessSeesThem()
      throws Exception {
    MemorySegment pool = SharedMemory.reserve(4L << 20, false, arena);
    SharedMemory.open(pool.address(), pool.byteSize());
    long half = pool.byteSize() / 2;
    MemorySegment end = pool.asSlice(half, (long) FILE_PAGES * PAGE);
    assertThat(submit(true, 0, FILE_PAGES).await()).isZero();
    for (int round = 0; round < 3; round++) {
      io.registerMemory(List.of(pool)).get(PATIENCE_S, TimeUnit.SECONDS);
      Access read =
          new Access(BlockOp.Urgency.READ_LIVE, false, 0, end.address(), FILE_PAGES * PAGE);
      io.submit(read);
      assertThat(read.await()).isZero();
      assertThat(end.mismatch(memory.asSlice(0, end.byteSize()))).isEqualTo(-1);
      io.registerMemory(List.of(pool.asSlice(0, half))).get(PATIENCE_S, TimeUnit.SECONDS);
      SharedMemory.giveBack(pool.address() + half, half);
      SharedMemory.open(pool.address() + half, half);
    }
  }

  @Test
  void registeredMemory_toldTwiceAtOnce_bothAreDone() throws Exception {
    var first = io.registerMemory(List.of(memory));
    var second = io.registerMemory(List.of(memory.asSlice(0, PAGE)));
    first.get(PATIENCE_S, TimeUnit.SECONDS);
    second.get(PATIENCE_S, TimeUnit.SECONDS);
    assertThat(submit(true, 0, 2).await()).isZero();
  }

  /** The queue is never empty: who registers only where nothing is under way must make that so. */
  @Test
  void registeredMemory_toldWhileAccessesGoOn_isDoneAndSoAreThey() throws Exception {
    assertThat(submit(true, 0, FILE_PAGES).await()).isZero();
    AtomicInteger reads = new AtomicInteger();
    CompletableFuture<Void> over = new CompletableFuture<>();
    Queue<Access> all = new ConcurrentLinkedQueue<>();
    class Endless extends Access {
      private final int page;

      Endless(int page) {
        super(
            BlockOp.Urgency.READ_LIVE,
            false,
            (long) page * PAGE,
            memory.address() + memory.byteSize() / 2 + (long) page * PAGE,
            PAGE);
        this.page = page;
        all.add(this);
      }

      @Override
      void done(int errno) {
        reads.incrementAndGet();
        if (!over.isDone()) {
          io.submit(new Endless(page));
        }
        super.done(errno);
      }
    }
    for (int page = 0; page < 16; page++) {
      io.submit(new Endless(page));
    }
    for (int round = 1; round <= 20; round++) {
      MemorySegment told = memory.asSlice(0, memory.byteSize() / (1 + round % 2));
      io.registerMemory(List.of(told)).get(PATIENCE_S, TimeUnit.SECONDS);
    }
    over.complete(null);
    for (Access access : all) {
      assertThat(access.await()).isZero();
    }
    assertThat(reads).hasValueGreaterThanOrEqualTo(16);
    assertSame(0, 16);
  }

  @Test
  void shortTransfers_areContinued() throws Exception {
    Random random = new Random(2);
    AtomicInteger calls = new AtomicInteger();
    faults =
        (op, length) -> {
          calls.incrementAndGet();
          return Math.min(length, Math.max(512, random.nextInt(2 * length) / 512 * 512));
        };
    assertThat(submit(true, 3, 64).await()).isZero();
    assertThat(submit(false, 3, 64).await()).isZero();
    assertThat(calls).hasValueGreaterThan(4);
    assertSame(3, 64);
  }

  @Test
  void transferOfLessThanAPage_again_isAnError() throws Exception {
    faults = (op, length) -> 512;
    assertThat(submit(false, 0, 1).await()).isEqualTo(Errno.EIO);
  }

  @Test
  void tryAgain_isTriedAgain() throws Exception {
    AtomicInteger calls = new AtomicInteger();
    faults =
        (op, length) ->
            switch (calls.incrementAndGet() % 3) {
              case 0 -> length;
              case 1 -> -Errno.EAGAIN;
              default -> -Errno.EINTR;
            };
    assertThat(submit(true, 0, 2).await()).isZero();
    assertThat(submit(false, 0, 2).await()).isZero();
    assertThat(calls).hasValue(6);
    assertSame(0, 2);
  }

  @Test
  void tryAgainForEver_isAnError() throws Exception {
    faults = (op, length) -> -Errno.EAGAIN;
    assertThat(submit(true, 0, 1).await()).isEqualTo(Errno.EAGAIN);
  }

  @Test
  void errors_arrive_andOthersGoOn() throws Exception {
    faults = (op, length) -> op.at() == 0 ? (op.isWrite() ? -Errno.ENOSPC : -Errno.EIO) : length;
    Access full = submit(true, 0, 1);
    Access fine = submit(true, 1, 1);
    assertThat(full.await()).isEqualTo(Errno.ENOSPC);
    assertThat(fine.await()).isZero();
    assertThat(submit(false, 0, 1).await()).isEqualTo(Errno.EIO);
    assertThat(submit(false, 1, 1).await()).isZero();
    assertSame(1, 1);
  }

  @Test
  void readPastTheEnd_isAnError() throws Exception {
    assertThat(submit(false, FILE_PAGES, 1).await()).isEqualTo(Errno.EIO);
  }

  @Test
  void unwanted_isDropped() throws Exception {
    Access access = new Access(BlockOp.Urgency.WRITE, true, 0, memory.address(), PAGE);
    access.wanted = false;
    io.submit(access);
    assertThat(access.await()).isEqualTo(Errno.ECANCELED);
  }

  @Test
  void stall_isSeen_queuedIsDropped_restComesBack() throws Exception {
    CountDownLatch stalled = new CountDownLatch(1);
    CountDownLatch released = new CountDownLatch(1);
    faults =
        (op, length) -> {
          stalled.countDown();
          try {
            assertThat(released.await(PATIENCE_S, TimeUnit.SECONDS)).isTrue();
          } catch (InterruptedException e) {
            throw new IllegalStateException(e);
          }
          return length;
        };
    assertThat(io.oldestNanos()).isEqualTo(Long.MAX_VALUE);
    List<Access> all = new ArrayList<>();
    for (int i = 0; i < 40; i++) {
      all.add(submit(false, i, 1));
    }
    assertThat(stalled.await(PATIENCE_S, TimeUnit.SECONDS)).isTrue();
    assertThat(io.inFlight()).isPositive();
    assertThat(io.oldestNanos()).isLessThanOrEqualTo(System.nanoTime());
    io.dropQueued();
    assertThat(all.getLast().await()).isEqualTo(Errno.ECANCELED);
    assertThat(all.getFirst().end).isNotDone();
    released.countDown();
    assertThat(all.getFirst().await()).isZero();
  }

  @Test
  void liveReads_overtakeWritesAndSpeculation() throws Exception {
    CountDownLatch released = new CountDownLatch(1);
    ConcurrentLinkedQueue<BlockOp.Urgency> order = new ConcurrentLinkedQueue<>();
    List<Access> all = new ArrayList<>();
    faults =
        (op, length) -> {
          try {
            assertThat(released.await(PATIENCE_S, TimeUnit.SECONDS)).isTrue();
          } catch (InterruptedException e) {
            throw new IllegalStateException(e);
          }
          return length;
        };
    for (int i = 0; i < 6; i++) {
      for (BlockOp.Urgency urgency :
          List.of(
              BlockOp.Urgency.READ_SPECULATIVE, BlockOp.Urgency.WRITE, BlockOp.Urgency.READ_LIVE)) {
        Access access =
            new Access(urgency, urgency == BlockOp.Urgency.WRITE, 0, memory.address(), PAGE) {
              @Override
              boolean begin() {
                order.add(urgency);
                return true;
              }
            };
        all.add(access);
        io.submit(access);
      }
    }
    released.countDown();
    for (Access access : all) {
      assertThat(access.await()).isZero();
    }
    // Those that found a free place began at once, behind them it goes by urgency; between taking
    // and beginning, the others under way may come first.
    int last = List.copyOf(order).lastIndexOf(BlockOp.Urgency.READ_LIVE);
    assertThat(last).as("%s", order).isLessThan(2 * placesTakenAtOnce() + 6 - 1);
  }

  /** How many accesses begin before the first one ends. */
  abstract int placesTakenAtOnce();

  @Test
  void close_endsWhatIsQueued_andRefusesMore() throws Exception {
    assertThat(io.close(TimeUnit.SECONDS.toNanos(PATIENCE_S))).isTrue();
    assertThat(submit(false, 0, 1).await()).isEqualTo(Errno.ECANCELED);
  }
}
