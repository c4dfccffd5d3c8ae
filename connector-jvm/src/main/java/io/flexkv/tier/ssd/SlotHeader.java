package io.flexkv.tier.ssd;

import java.util.Arrays;
import java.util.HexFormat;

/**
 * What is kept of a block beside its bytes: enough to find its place in a chain again after a
 * restart, and to announce it anew.
 *
 * @param identity whose bytes they are
 * @param hasParent whether it continues another block; if not, the parent's halves are 0
 * @param parentHi upper half of the last 16 bytes of the parent's block hash
 * @param parentLo lower half of them
 * @param blockTokens tokens of a block
 * @param bootEpoch the sidecar's life in which it was written
 * @param eventData what KV events need (whole hash, tokens, LoRA, extra keys), encoded by the
 *     caller and given back as it came; at most {@value #MAX_EVENT_BYTES} bytes, empty if events
 *     are off. Not copied: leave it as it is
 */
@SuppressWarnings("ArrayRecordComponent") // compared by content below; one copy less a block
public record SlotHeader(
    SlotIdentity identity,
    boolean hasParent,
    long parentHi,
    long parentLo,
    int blockTokens,
    long bootEpoch,
    byte[] eventData) {
  /** Longest {@link #eventData}. */
  public static final int MAX_EVENT_BYTES = 3072;

  public SlotHeader {
    if (eventData.length > MAX_EVENT_BYTES) {
      throw new IllegalArgumentException(
          "event data of %d bytes, at most %d".formatted(eventData.length, MAX_EVENT_BYTES));
    }
    if (!hasParent && (parentHi != 0 || parentLo != 0)) {
      throw new IllegalArgumentException(
          "parent %016x%016x of a block without parent".formatted(parentHi, parentLo));
    }
    if (blockTokens < 1) {
      throw new IllegalArgumentException("block of " + blockTokens + " tokens");
    }
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof SlotHeader that
        && identity.equals(that.identity)
        && hasParent == that.hasParent
        && parentHi == that.parentHi
        && parentLo == that.parentLo
        && blockTokens == that.blockTokens
        && bootEpoch == that.bootEpoch
        && Arrays.equals(eventData, that.eventData);
  }

  @Override
  public int hashCode() {
    return 31 * identity.hashCode() + Long.hashCode(bootEpoch);
  }

  @Override
  public String toString() {
    return "SlotHeader[%s, parent=%s, tokens=%d, epoch=%016x, event=%s]"
        .formatted(
            identity,
            hasParent ? "%016x%016x".formatted(parentHi, parentLo) : "none",
            blockTokens,
            bootEpoch,
            HexFormat.of().formatHex(eventData, 0, Math.min(16, eventData.length)));
  }
}
