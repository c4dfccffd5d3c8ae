package io.flexkv.ffm;

/** A call of the CUDA driver failed; the text holds the call with its arguments, and the result. */
public final class CudaCallException extends Exception {
  private static final long serialVersionUID = 1L;

  private final int code;

  public CudaCallException(String call, int code, String name) {
    super("%s failed: %s (%d)".formatted(call, name, code));
    this.code = code;
  }

  /** The {@code CUresult}. */
  public int code() {
    return code;
  }

  @Override
  public String getMessage() {
    return String.valueOf(super.getMessage());
  }
}
