package io.flexkv.config;

/**
 * A setting that cannot be used; the message names it, its source, the value and what is allowed.
 */
public final class ConfigException extends Exception {
  private static final long serialVersionUID = 1L;

  public ConfigException(String message) {
    super(message);
  }
}
