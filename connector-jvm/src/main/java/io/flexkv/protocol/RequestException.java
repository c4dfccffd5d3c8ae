package io.flexkv.protocol;

/** A request of the control plane that is answered with an error. */
public final class RequestException extends Exception {
  private static final long serialVersionUID = 1L;

  private final String code;

  /**
   * @param code one word for programs: malformed, token, unknown, gone, limit, refused, timeout …
   * @param message for people: the thing, the value seen, the value wanted, the way out
   */
  public RequestException(String code, String message) {
    super(message);
    this.code = code;
  }

  public String code() {
    return code;
  }
}
