package io.flexkv.tier.ssd;

import java.io.IOException;

/** Another process, or another store of this one, owns the directory. */
public final class SsdInUseException extends IOException {
  private static final long serialVersionUID = 1L;

  SsdInUseException(String message) {
    super(message);
  }
}
