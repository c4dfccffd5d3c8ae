package io.flexkv.device;

/**
 * What can go wrong at the door to engine memory. The text names the thing, the value seen and the
 * value wanted; {@link #kind} says what the caller may still do.
 */
public final class DeviceException extends Exception {
  private static final long serialVersionUID = 1L;

  /** What is lost. */
  public enum Kind {
    /** The registration is wrong; nothing was opened. */
    LAYOUT,
    /** The registration asks for what this machine or version does not offer. */
    UNSUPPORTED,
    /** This copy failed; others may still work. */
    COPY,
    /** The owner of the memory has ended, or its device is lost: nothing works any more. */
    GONE
  }

  private final Kind kind;

  public DeviceException(Kind kind, String message) {
    super(message);
    this.kind = kind;
  }

  public DeviceException(Kind kind, String message, Throwable cause) {
    super(message, cause);
    this.kind = kind;
  }

  @Override
  public String getMessage() {
    return String.valueOf(super.getMessage());
  }

  /** What is lost. */
  public Kind kind() {
    return kind;
  }

  @SuppressWarnings("AnnotateFormatMethod") // its annotation is in a library that we do not ship
  static DeviceException layout(String format, Object... values) {
    return new DeviceException(Kind.LAYOUT, "layout: " + format.formatted(values));
  }
}
