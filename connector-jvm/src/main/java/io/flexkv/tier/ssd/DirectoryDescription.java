package io.flexkv.tier.ssd;

import io.flexkv.ffm.ErrnoException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.IntConsumer;

/**
 * What a directory at work says of itself ({@link DirectoryMeta}), and how that comes to be
 * durable: two copies take turns, so that one of them is whole whenever a write is cut short.
 *
 * <p>The care thread's, but for {@link #raise}, for {@link #merge} before that thread starts, and
 * for {@link #noteCleanEnd} once it has ended.
 */
final class DirectoryDescription {
  /** A generation to note, and who waits for that: 0 or an error number. */
  private record Raise(DirectoryMeta.Digest namespace, int generation, IntConsumer answer) {}

  private final DirectoryFiles files;
  private final BlockIo io;
  private final HeaderLog log;
  private final IntConsumer failure;
  private final MemorySegment copy;
  private final Queue<Raise> raises = new ConcurrentLinkedQueue<>();

  /**
   * @param failure told the error number of a write that failed, where nobody else is
   */
  DirectoryDescription(
      DirectoryFiles files, BlockIo io, HeaderLog log, Arena arena, IntConsumer failure) {
    this.files = files;
    this.io = io;
    this.log = log;
    this.failure = failure;
    this.copy = arena.allocate(DirectoryMeta.BYTES, SsdStore.PAGE_BYTES);
  }

  /** Writes it, durably, into the older of its two copies; 0 or an error number. */
  int store() {
    DirectoryMeta meta = files.meta();
    meta.sequence++;
    meta.sequences = Math.max(meta.sequences, log.nextSequence());
    meta.uses = Math.max(meta.uses, log.nextUse());
    meta.encode(copy);
    int errno =
        BlockingAccess.run(
            io,
            BlockOp.Urgency.META,
            true,
            0,
            meta.sequence % 2 * DirectoryMeta.BYTES,
            copy.address(),
            DirectoryMeta.BYTES);
    try {
      if (errno == 0) {
        files.sync();
      }
      return errno;
    } catch (ErrnoException e) {
      return e.errno();
    }
  }

  /**
   * Writes it into both copies: whichever of them is damaged one day, the other says the same. 0 or
   * an error number.
   */
  int storeTwice() {
    int first = store();
    return first == 0 ? store() : first;
  }

  /** A generation that {@link #noteRaises} is to note. Any thread. */
  void raise(DirectoryMeta.Digest namespace, int generation, IntConsumer answer) {
    raises.add(new Raise(namespace, generation, answer));
  }

  /** Notes the generations that wait, all with one write. */
  void noteRaises() {
    List<Raise> taken = new ArrayList<>();
    Raise raise;
    while ((raise = raises.poll()) != null) {
      note(raise);
      taken.add(raise);
    }
    if (taken.isEmpty()) {
      return;
    }
    int errno = storeTwice();
    if (errno != 0) {
      failure.accept(errno);
    }
    taken.forEach(noted -> noted.answer().accept(errno));
  }

  private void note(Raise raise) {
    DirectoryMeta meta = files.meta();
    if (meta.generations.size() == DirectoryMeta.MAX_NAMESPACES
        && !meta.generations.containsKey(raise.namespace())) {
      // No room for another: whatever is stored so far is given up instead.
      meta.floor = log.nextSequence();
      meta.generations.clear();
    }
    meta.generations.merge(raise.namespace(), raise.generation(), Math::max);
  }

  /** Takes over generations that other directories know of; before the directory starts. */
  void merge(Map<DirectoryMeta.Digest, Integer> generations) {
    generations.forEach((digest, g) -> files.meta().generations.merge(digest, g, Math::max));
  }

  /** Notes another set of directories in use together. */
  void setMembers(long[] members) {
    files.meta().members = members.clone();
    int errno = store();
    if (errno != 0) {
      failure.accept(errno);
    }
  }

  /**
   * Notes that all came back and was written.
   *
   * @param proven whether no header is in doubt any more
   */
  void noteCleanEnd(boolean proven) {
    DirectoryMeta meta = files.meta();
    meta.clean = true;
    if (log.headersMissing()) {
      meta.doubtBelow = log.nextSequence();
    } else if (proven) {
      meta.doubtBelow = 0;
    }
    store();
  }
}
