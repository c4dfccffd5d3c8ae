package io.flexkv.session;

import io.flexkv.protocol.GoRecord;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.RecordDescriptor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;

/**
 * Workers whose sessions were ended from here, through no fault of theirs: each {@code Go} that one
 * wrote before it saw the end of its socket is answered still. No copy of it has begun or ever
 * will; but its worker cannot know that, and would kill this process to be sure.
 *
 * <p>Such a session is over otherwise: it belongs to no instance, and its worker may be back with
 * another one. What it reads in its ring after the end of the socket counts for it. Cache thread
 * only; nothing is allocated while there is no such session.
 */
final class Farewells {
  /** A worker looks at its socket once a millisecond, and writes at once: unless it is held up. */
  static final long NANOS = 5_000_000_000L;

  private record Farewell(Session session, long untilNanos) {}

  private final JobRouter jobs;
  private final List<Farewell> open = new ArrayList<>();
  private final GoRecord go = new GoRecord();

  Farewells(JobRouter jobs) {
    this.jobs = jobs;
  }

  /** From here on its memory is closed here. */
  void add(Session session, long nowNanos) {
    open.add(new Farewell(session, nowNanos + NANOS));
  }

  /** Whether nobody is listened to. */
  boolean isEmpty() {
    return open.isEmpty();
  }

  /**
   * Answers what has come, and forgets those who were given their time.
   *
   * @param record room for a record
   * @return how many records came
   */
  int doWork(MemorySegment record, long nowNanos) {
    int count = 0;
    for (Iterator<Farewell> each = open.iterator(); each.hasNext(); ) {
      Farewell farewell = each.next();
      count += listen(farewell.session, record);
      if (nowNanos - farewell.untilNanos >= 0) {
        farewell.session.memory.close();
        each.remove();
      }
    }
    return count;
  }

  private int listen(Session session, MemorySegment record) {
    int count = 0;
    try {
      for (int length; (length = session.read(record)) > 0; count++) {
        if (RecordDescriptor.type(record) == RecordDescriptor.TYPE_GO) {
          go.wrap(record, length);
          jobs.goAfterEnd(session, go);
        }
      }
    } catch (ProtocolException e) {
      return count; // its ring cannot be read: nobody is owed an answer
    }
    return count;
  }

  /** Closes the memory of all. */
  void close() {
    open.forEach(farewell -> farewell.session.memory.close());
    open.clear();
  }
}
