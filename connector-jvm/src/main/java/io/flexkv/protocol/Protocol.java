package io.flexkv.protocol;

/** Version, roles and limits of the wire format; the same numbers as in {@code protocol.py}. */
public final class Protocol {
  /** Version of all layouts and records together; both sides must have the same one. */
  public static final int VERSION = 1;

  public static final int ROLE_SCHEDULER = 1;
  public static final int ROLE_WORKER = 2;
  public static final int ROLE_TOOL = 3;

  public static final int MAX_RECORD_BYTES = 256 * 1024;
  public static final int MAX_KEYS_A_RECORD = 4096;
  public static final int MAX_BLOCKS_A_PLAN = 8192;
  public static final int MIN_HASH_BYTES = 16;
  public static final int MAX_HASH_BYTES = 64;
  public static final int MAX_FRAME_BYTES = 1024 * 1024;

  /** A job id is the scheduler session's id (23 bits) above a counter of this many bits. */
  public static final int JOB_COUNTER_BITS = 40;

  public static final int MAX_SESSION_ID = (1 << 23) - 1;

  /** "No index" in an index field. */
  public static final long NO_INDEX = 0xFFFF_FFFFL;

  public static final int KIND_LOAD = 1;
  public static final int KIND_SAVE = 2;

  /** The bytes are in place already. */
  public static final int FENCE_NONE = 0;

  /** An interprocess event of the ring handed over at registration. */
  public static final int FENCE_EVENT = 1;

  public static final int STATUS_OK = 0;
  public static final int STATUS_FAILED = 1;
  public static final int STATUS_REVOKED = 2;
  public static final int STATUS_VOID = 3;

  public static final int LOOKUP_OK = 0;
  public static final int LOOKUP_PENDING = 1;
  public static final int LOOKUP_NOT_READY = 2;
  public static final int LOOKUP_UNKNOWN = 3;

  public static final int TIER_HOST = 1;
  public static final int TIER_SSD = 2;
  public static final int TIER_REMOTE = 3;

  public static final int NOTICE_STORED = 1;
  public static final int NOTICE_EVICTED = 2;
  public static final int NOTICE_CLEARED = 3;

  /** A listing of all that is resident begins; what is not named before its end is gone. */
  public static final int NOTICE_LIST_BEGIN = 4;

  public static final int NOTICE_LIST_END = 5;

  /** Flag of {@code NoticesTaken}: list anew. */
  public static final int NOTICES_ANEW = 1;

  private Protocol() {}

  /** The scheduler session that planned a job. */
  public static int sessionOfJob(long jobId) {
    return (int) (jobId >>> JOB_COUNTER_BITS);
  }

  /**
   * Id of a job.
   *
   * @param sessionId 1 … 2^23−1
   * @param counter 1 … 2^40−1
   */
  public static long jobId(int sessionId, long counter) {
    if (sessionId <= 0
        || sessionId > MAX_SESSION_ID
        || counter <= 0
        || counter >>> JOB_COUNTER_BITS != 0) {
      throw new IllegalArgumentException(
          "job id out of range: session=" + sessionId + " counter=" + counter);
    }
    return (long) sessionId << JOB_COUNTER_BITS | counter;
  }
}
