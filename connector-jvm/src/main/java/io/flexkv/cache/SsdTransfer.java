package io.flexkv.cache;

import java.util.List;

/**
 * Blocks to copy between host slots and SSD slots, in the order of their chain. Both kinds of slots
 * belong to the transfer until the core is told that it is drained.
 *
 * @param id unique in this life of the sidecar, positive
 * @param hostSlots for each block
 * @param ssdSlots for each block
 * @param blocks what each of them is
 */
@SuppressWarnings("ArrayRecordComponent") // made for this transfer and never changed
public record SsdTransfer(long id, long[] hostSlots, long[] ssdSlots, List<BlockIdentity> blocks) {

  public SsdTransfer {
    if (hostSlots.length == 0
        || hostSlots.length != ssdSlots.length
        || hostSlots.length != blocks.size()) {
      throw new IllegalArgumentException(
          "transfer %d: %d host slots, %d SSD slots, %d blocks"
              .formatted(id, hostSlots.length, ssdSlots.length, blocks.size()));
    }
  }
}
