package io.flexkv.tier.ssd;

import io.flexkv.tier.ssd.RecoverySink.Survivor;
import java.lang.System.Logger.Level;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.function.LongConsumer;
import org.jspecify.annotations.Nullable;

/**
 * Hands the survivors of all directories to the sink. One thread; the sink answers on another, a
 * few batches later, so that reading, sorting and taking go on side by side.
 *
 * <p>The logs are read once more, all directories side by side, oldest headers first: a parent was
 * written before its children, so nearly every block can be taken when it comes. One whose parent
 * is not there yet waits for it ({@link WaitingSurvivors}). Where too many wait (cleaning the log
 * moves a parent behind its children), the pages of the rest are read again, for as long as that
 * brings some. What is left then has no parent, and is given up. So nothing is kept of a block that
 * has been taken: which are there, the sink knows.
 */
final class Recovery {
  private static final System.Logger LOG = System.getLogger(Recovery.class.getName());

  /** Batches that are with the sink: one is taken while another is filled. */
  private static final int BATCHES = 4;

  /** How often the logs are read; each time brings the children of what was moved once more. */
  private static final int MAX_PASSES = 64;

  /** Whether a block may still be offered: its generation may have been raised since. */
  @FunctionalInterface
  interface Wanted {
    boolean test(long digestHi, long digestLo, int generation);
  }

  /**
   * Does not ask again about what was asked last: records of one namespace come one after another.
   * It is made to forget with each page; a generation that is raised within one is the sink's to
   * know.
   */
  static final class LatestAnswer implements Wanted {
    private final Wanted asked;
    private long hi;
    private long lo;
    private int generation = -1;
    private boolean answer;

    LatestAnswer(Wanted asked) {
      this.asked = asked;
    }

    void forget() {
      generation = -1;
    }

    @Override
    public boolean test(long digestHi, long digestLo, int theGeneration) {
      if (theGeneration != generation || digestHi != hi || digestLo != lo) {
        answer = asked.test(digestHi, digestLo, theGeneration);
        hi = digestHi;
        lo = digestLo;
        generation = theGeneration;
      }
      return answer;
    }
  }

  private final List<SsdDirectory> directories;
  private final RecoverySink sink;
  private final LatestAnswer wanted;
  private final LongConsumer giveUp;
  private final List<@Nullable RecoveryCursor> cursors = new ArrayList<>();
  private final BlockingQueue<SurvivorBatch> answered = new LinkedBlockingQueue<>();
  private final Deque<SurvivorBatch> idle = new ArrayDeque<>();
  private final Deque<Survivor> ready = new ArrayDeque<>();
  private final WaitingSurvivors waiting;
  private final HeaderRecord record = new HeaderRecord();
  private SurvivorBatch batch;
  private boolean spilled;
  private long taken;
  private long refused;
  private long dropped;
  private long bytesRead;

  /**
   * @param giveUp takes slots that nobody wants
   * @param waitingBytes heap for blocks that wait for their parents
   */
  Recovery(
      List<SsdDirectory> directories,
      RecoverySink sink,
      Wanted wanted,
      LongConsumer giveUp,
      long waitingBytes) {
    this.directories = directories;
    this.sink = sink;
    this.wanted = new LatestAnswer(wanted);
    this.giveUp = giveUp;
    this.waiting = new WaitingSurvivors(waitingBytes, this::spill);
    for (int i = 0; i < BATCHES; i++) {
      idle.add(new SurvivorBatch(answered::add));
    }
    batch = idle.remove();
  }

  void run() {
    long begin = System.nanoTime();
    try {
      for (SsdDirectory directory : directories) {
        DirectoryScan scan = directory.scan();
        cursors.add(scan == null ? null : new RecoveryCursor(directory, scan));
        dropped += scan == null ? 0 : scan.dropped();
        bytesRead += scan == null ? 0 : scan.bytesRead();
      }
      readAll();
      giveUpRest();
    } catch (InterruptedException e) {
      LOG.log(Level.INFO, "the recovery of SSD blocks was interrupted after {0} blocks", taken);
    } finally {
      for (RecoveryCursor cursor : cursors) {
        if (cursor != null) {
          bytesRead += cursor.bytesRead();
          cursor.close();
        }
      }
      directories.forEach(SsdDirectory::mayClean);
      sink.finished(
          new RecoverySink.Report(
              taken + refused, taken, dropped, bytesRead, System.nanoTime() - begin));
    }
  }

  // ---- reading

  private void readAll() throws InterruptedException {
    for (int pass = 1; pass <= MAX_PASSES; pass++) {
      long before = taken;
      readOnce();
      if (!spilled || taken == before) {
        return;
      }
      waiting.spillAll();
      spilled = false;
      for (RecoveryCursor cursor : cursors) {
        if (cursor != null) {
          cursor.restart();
        }
      }
    }
  }

  private void readOnce() throws InterruptedException {
    List<RecoveryCursor> open = new ArrayList<>();
    for (RecoveryCursor cursor : cursors) {
      if (cursor != null) {
        open.add(cursor);
      }
    }
    while (!open.isEmpty()) {
      if (Thread.interrupted()) {
        throw new InterruptedException("the store is closed");
      }
      RecoveryCursor least = open.getFirst();
      for (RecoveryCursor cursor : open) {
        least = cursor.share() < least.share() ? cursor : least;
      }
      int page = least.next();
      if (page == 0) {
        open.remove(least);
      } else {
        takePage(least, page);
      }
    }
    settle();
  }

  private void takePage(RecoveryCursor cursor, int page) throws InterruptedException {
    DirectoryScan scan = cursor.scan();
    int directory = cursor.directory().index();
    var records = cursor.records();
    wanted.forget();
    for (long at = 0; record.wrap(records, at); at += record.length()) {
      SlotSpan span = scan.spanOf(record, page);
      if (span == null) {
        continue;
      }
      int index = record.index();
      span.unmark(index, DirectoryScan.NOT_OFFERED);
      long slot = SlotNumber.of(directory, span.offset(index), span.generation(index));
      if (wanted.test(record.digestHi(), record.digestLo(), record.generation())) {
        batch.add(slot, record);
        sendIfFull();
      } else {
        giveUp(slot);
      }
    }
  }

  // ---- batches

  private void sendIfFull() throws InterruptedException {
    if (batch.isFull()) {
      send();
      offerReady();
    }
  }

  /** Those whose parents have come. */
  private void offerReady() throws InterruptedException {
    for (Survivor survivor; (survivor = ready.poll()) != null; ) {
      if (batch.isFull()) {
        send();
      }
      batch.add(survivor.slot(), survivor.header());
    }
  }

  private void send() throws InterruptedException {
    sink.offer(batch);
    for (SurvivorBatch back; (back = answered.poll()) != null; ) {
      takeAnswers(back);
    }
    if (idle.isEmpty()) {
      takeAnswers(answered.take());
    }
    batch = idle.remove();
  }

  /** Until all that was read has its answer, and what that let go too. */
  private void settle() throws InterruptedException {
    while (true) {
      offerReady();
      if (batch.size() > 0) {
        send();
      } else if (idle.size() < BATCHES - 1) {
        takeAnswers(answered.take());
      } else if (ready.isEmpty()) {
        return;
      }
    }
  }

  private void takeAnswers(SurvivorBatch back) {
    for (int i = 0; i < back.size(); i++) {
      switch (back.answer(i)) {
        case TAKEN -> {
          taken++;
          if (!waiting.isEmpty()) {
            waiting.release(back.identityDigest(i), ready);
          }
        }
        case REFUSED -> {
          refused++;
          giveUp.accept(back.slot(i));
        }
        case NO_PARENT ->
            waiting.add(back.parentDigest(i), new Survivor(back.slot(i), back.header(i)));
      }
    }
    back.clear();
    idle.add(back);
  }

  /** Too many wait: this one is read once more. */
  private void spill(Survivor survivor) {
    long slot = survivor.slot();
    RecoveryCursor cursor = Objects.requireNonNull(cursors.get(SlotNumber.directory(slot)));
    SlotSpan span =
        Objects.requireNonNull(cursor.directory().space().spanAtByte(SlotNumber.offset(slot)));
    int index = span.indexOf(SlotNumber.offset(slot));
    span.mark(index, DirectoryScan.NOT_OFFERED);
    cursor.again(span.headerPage(index));
    spilled = true;
  }

  private void giveUp(long slot) {
    dropped++;
    giveUp.accept(slot);
  }

  /** Those whose parents never came, and those whose headers could not be read again. */
  private void giveUpRest() {
    waiting.spillAll();
    for (RecoveryCursor cursor : cursors) {
      if (cursor == null) {
        continue;
      }
      int directory = cursor.directory().index();
      for (SlotSpan span : cursor.scan().spans()) {
        for (int i = 0; i < span.slots; i++) {
          if (span.isMarked(i, DirectoryScan.NOT_OFFERED)) {
            span.unmark(i, DirectoryScan.NOT_OFFERED);
            giveUp(SlotNumber.of(directory, span.offset(i), span.generation(i)));
          }
        }
      }
    }
  }
}
