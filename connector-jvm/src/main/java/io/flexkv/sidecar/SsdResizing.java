package io.flexkv.sidecar;

import io.flexkv.protocol.RequestException;
import io.flexkv.tier.ssd.SsdStore;
import java.io.IOException;
import org.jspecify.annotations.Nullable;

/** What {@code set ssd_cache_gb} asks of the SSD tier. The control thread only. */
final class SsdResizing {
  private final @Nullable SsdStore store;

  SsdResizing(@Nullable SsdStore store) {
    this.store = store;
  }

  /** Whether it can have another size, and if larger, room for it; {@link #over} follows. */
  void prepare(long bytes) throws RequestException {
    if (store == null) {
      throw refused("this sidecar has no SSD tier: restart it with ssd_cache_gb and ssd_cache_dir");
    }
    if (bytes == 0) {
      throw refused("the SSD tier cannot be taken away while it serves: restart the sidecar");
    }
    try {
      store.prepareResize(bytes);
    } catch (IOException e) {
      throw refused(String.valueOf(e.getMessage()));
    }
  }

  private static RequestException refused(String text) {
    return new RequestException("refused", "ssd_cache_gb stays as it is: " + text);
  }

  /** It has another size, or has it not after all. */
  void over() {
    if (store != null) {
      store.resizeOver();
    }
  }
}
