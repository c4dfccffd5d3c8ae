package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;

/**
 * Answered at once with the same payload: measures the ring alone. The answer has the same body
 * under its own type.
 *
 * <pre>
 *  8           16
 *  +-----------+-------------+
 *  | query u64 | payload ... |
 *  +-----------+-------------+
 * </pre>
 */
public final class EchoRecord extends RecordView {
  private static final int QUERY = 8;
  private static final int PAYLOAD = 16;

  private final int type;

  private EchoRecord(int type) {
    this.type = type;
  }

  /** A view of questions. */
  public static EchoRecord question() {
    return new EchoRecord(RecordDescriptor.TYPE_ECHO);
  }

  /** A view of answers. */
  public static EchoRecord answer() {
    return new EchoRecord(RecordDescriptor.TYPE_ECHO_ANSWER);
  }

  @Override
  int type() {
    return type;
  }

  @Override
  int fixedBytes() {
    return PAYLOAD;
  }

  @Override
  void checkBody() {}

  public long queryId() {
    return u64(QUERY);
  }

  /** Where the payload begins in {@link #segment()}; it ends with the record. */
  public long payloadOffset() {
    return PAYLOAD;
  }

  public long payloadBytes() {
    return length() - PAYLOAD;
  }

  /** Writes a question to the start of {@code to}; returns its length in bytes. */
  public static int encode(MemorySegment to, long queryId, byte[] payload) {
    int length = PAYLOAD + payload.length;
    RecordDescriptor.encode(to, length, RecordDescriptor.TYPE_ECHO);
    to.set(Wire.U64, QUERY, queryId);
    WireArrays.copy(payload, to, PAYLOAD, length);
    return length;
  }

  /** Writes the answer to {@code question} to the start of {@code to}; returns its length. */
  public static int encodeAnswer(MemorySegment to, EchoRecord question) {
    RecordDescriptor.encode(to, question.length(), RecordDescriptor.TYPE_ECHO_ANSWER);
    MemorySegment.copy(question.segment(), QUERY, to, QUERY, question.length() - QUERY);
    return (int) question.length();
  }
}
