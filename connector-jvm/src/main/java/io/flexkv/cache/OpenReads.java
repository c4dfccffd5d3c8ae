package io.flexkv.cache;

import java.util.HashMap;
import java.util.Map;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/** The reads from the SSD that have not ended, those included that are still being put together. */
final class OpenReads {
  private final BlockIndex index;
  private final Copies copies;
  private final CacheEffects effects;
  private final Counters counters;
  private final LongSupplier nanoTime;
  private final ReadRate rate = new ReadRate();
  private final Map<Long, Promotion> byId = new HashMap<>();
  private final Map<Integer, Promotion> byReference = new HashMap<>();
  private long bytes;

  OpenReads(
      BlockIndex index,
      Copies copies,
      CacheEffects effects,
      Counters counters,
      LongSupplier nanoTime) {
    this.index = index;
    this.copies = copies;
    this.effects = effects;
    this.counters = counters;
    this.nanoTime = nanoTime;
  }

  /** Room in the host tier that they hold. */
  long bytes() {
    return bytes;
  }

  /** When reads of so many more bytes would be through, by the rate of late; 0 if unknown. */
  double secondsFor(long more, long now) {
    double bytesPerSecond = rate.bytesPerSecond(now);
    return bytesPerSecond == 0 ? 0 : (bytes + more) / bytesPerSecond;
  }

  int size() {
    return byId.size();
  }

  @Nullable Promotion get(long id) {
    return byId.get(id);
  }

  /** The read of a block that is being read. */
  @Nullable Promotion of(int entry) {
    return byReference.get(index.getInt(entry, EntryLayout.OWNER));
  }

  Promotion add(long id) {
    Promotion read = new Promotion(id);
    byId.put(id, read);
    byReference.put(read.reference, read);
    return read;
  }

  /** A block with a host slot of its own joins a read. */
  void put(Promotion read, int entry, long blockBytes) {
    read.add(entry, blockBytes);
    index.setInt(entry, EntryLayout.OWNER, read.reference);
    bytes += blockBytes;
  }

  /** Nothing more is added to a read: it is handed over. */
  void submitted(Promotion read) {
    read.seal();
    read.submitted = true;
    rate.begun(nanoTime.getAsLong());
  }

  /** So many more of its blocks are in their slots. */
  void brought(Promotion read, int blocks) {
    if (blocks > 0) {
      rate.brought(read.bytes / read.entries.length * blocks, nanoTime.getAsLong());
    }
  }

  /** It is taken back if nobody waits for it any more. */
  void cancelIfUnwanted(Promotion read) {
    if (read.wanted() || read.cancelled || !byId.containsKey(read.id)) {
      return;
    }
    read.cancelled = true;
    counters.promotionsCancelled++;
    if (read.submitted) {
      effects.cancelTransfer(read.id);
    } else {
      read.seal();
      end(read);
    }
  }

  /** It has ended: what has not come does not come. */
  void end(Promotion read) {
    byId.remove(read.id);
    byReference.remove(read.reference);
    bytes -= read.bytes;
    if (read.submitted) {
      rate.ended(nanoTime.getAsLong());
    }
    read.failed = read.ready < read.entries.length;
    for (int i = read.entries.length - 1; i >= read.ready; i--) {
      if (copies.owned(read.entries[i], read.reference)) {
        counters.promotionsFailedBlocks++;
        copies.readFailed(read.entries[i]);
      }
    }
  }
}
