package io.flexkv.session;

import io.flexkv.protocol.EchoRecord;
import io.flexkv.protocol.JobDoneRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.ResetAnswerRecord;
import io.flexkv.protocol.SaveDoneRecord;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import org.jspecify.annotations.Nullable;

/**
 * Writes answers to clients. A client that broke its ring, or does not read it, is noted and ended
 * by the cache thread at its next safe moment, not in the middle of what it does. Cache thread
 * only; no allocation while rings have room.
 */
final class Outbox {
  /**
   * A session to end, and why.
   *
   * @param lawful its client did nothing wrong: see {@link Farewells}
   */
  record Broken(Session session, String reason, boolean lawful) {}

  private final long bootEpoch;
  private final MemorySegment scratch = Arena.ofAuto().allocate(Protocol.MAX_RECORD_BYTES, 8);
  private final ArrayDeque<Broken> broken = new ArrayDeque<>();

  Outbox(long bootEpoch) {
    this.bootEpoch = bootEpoch;
  }

  /** The next session to end, null if there is none. */
  @Nullable Broken nextBroken() {
    return broken.poll();
  }

  /** Ends the session of a client that did what no correct one does. */
  void breakOff(Session session, String mistake) {
    endSoon(session, "it broke the protocol: " + mistake, false);
  }

  /** Ends the session of a client that did nothing wrong. */
  void dismiss(Session session, String reason) {
    endSoon(session, reason, true);
  }

  /** Ends a session at the cache thread's next safe moment. */
  private void endSoon(Session session, String reason, boolean lawful) {
    if (!session.ended) {
      broken.add(new Broken(session, reason, lawful));
    }
  }

  void lookupAnswer(
      Session to,
      long queryId,
      long requestId,
      long leaseId,
      int generation,
      int servable,
      int resident,
      int host,
      int ssd,
      int status,
      int group) {
    send(
        to,
        LookupAnswerRecord.encode(
            scratch,
            queryId,
            requestId,
            leaseId,
            generation,
            servable,
            resident,
            host,
            ssd,
            ssd,
            status,
            group));
  }

  void resetAnswer(Session to, long queryId, int generation, int status) {
    send(to, ResetAnswerRecord.encode(scratch, queryId, generation, status));
  }

  void saveDone(Session to, long jobId, int committed, int skipped, int dropped, int status) {
    send(to, SaveDoneRecord.encode(scratch, jobId, committed, skipped, dropped, status));
  }

  /** Tells of a part's end; returns whether it lies in the client's ring now. */
  boolean jobDone(
      Session to, long jobId, long bytes, int blocksOk, int micros, int kind, int status) {
    return send(
        to, JobDoneRecord.encode(scratch, jobId, bootEpoch, bytes, blocksOk, micros, kind, status));
  }

  /**
   * Tells a worker whose session has ended of a part, if its ring has room at once.
   *
   * @throws ProtocolException if the client broke its ring
   */
  void jobDoneAfterEnd(Session to, long jobId, int kind, int status) throws ProtocolException {
    to.offer(scratch, JobDoneRecord.encode(scratch, jobId, bootEpoch, 0, 0, 0, kind, status));
  }

  void echo(Session to, EchoRecord question) {
    if (question.length() > to.maxRecordBytes()) {
      breakOff(to, "echo of " + question.length() + " bytes does not fit its own ring");
      return;
    }
    send(to, EchoRecord.encodeAnswer(scratch, question));
  }

  /** Sends a notice if there is room at once; unlike answers, notices wait where they come from. */
  boolean notice(Session to, MemorySegment record, int length) {
    if (to.ended) {
      return false;
    }
    try {
      return to.offer(record, length);
    } catch (ProtocolException e) {
      breakOff(to, String.valueOf(e.getMessage()));
      return false;
    }
  }

  private boolean send(Session to, int length) {
    if (to.ended) {
      return false;
    }
    try {
      to.send(scratch, length);
      return to.bridge == null && !to.isWaiting();
    } catch (ProtocolException e) {
      breakOff(to, String.valueOf(e.getMessage()));
      return false;
    }
  }
}
