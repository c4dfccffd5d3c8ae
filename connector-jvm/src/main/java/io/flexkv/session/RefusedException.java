package io.flexkv.session;

/** A client that does not get a session, and what would help. */
public final class RefusedException extends Exception {
  private static final long serialVersionUID = 1L;

  private final Code code;

  /** The codes of {@code REFUSED} frames. */
  public enum Code {
    VERSION,
    UID,
    MALFORMED,
    LIMIT,
    DUPLICATE,
    STOPPING;

    /** As the frame says it. */
    public String wire() {
      return name().toLowerCase(java.util.Locale.ROOT);
    }
  }

  public RefusedException(Code code, String message) {
    super(message);
    this.code = code;
  }

  public Code code() {
    return code;
  }
}
