package io.flexkv.protocol;

/** Bytes that no correct peer sends; the message names the field, the value and the limit. */
public final class ProtocolException extends Exception {
  private static final long serialVersionUID = 1L;

  public ProtocolException(String message) {
    super(message);
  }

  /** Throws with the text made of {@code format} unless {@code condition} holds. */
  static void check(boolean condition, String format, long value, long limit)
      throws ProtocolException {
    if (!condition) {
      throw new ProtocolException(format.formatted(value, limit));
    }
  }
}
