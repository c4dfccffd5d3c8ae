package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * What transfers between the host tier and the SSD have in common: their numbers, the slots that
 * they may touch until they are drained, and what the blocks are.
 */
final class SsdTier {
  /** Slots that a transfer may still touch. */
  @SuppressWarnings("ArrayRecordComponent") // the transfer's own
  private record Touched(long[] hostSlots, long[] ssdSlots) {}

  final SlotPool slots;
  final Evictor evictor;
  private final BlockIndex index;
  private final Namespaces namespaces;
  private final SlotPool host;
  private final KeyProbe probe = new KeyProbe();
  private final Map<Long, Touched> touched = new HashMap<>();
  private SsdConfig config;
  private long lastId;

  SsdTier(
      SsdConfig config,
      SlotPool slots,
      Evictor evictor,
      BlockIndex index,
      Namespaces namespaces,
      SlotPool host) {
    this.config = config;
    this.slots = slots;
    this.evictor = evictor;
    this.index = index;
    this.namespaces = namespaces;
    this.host = host;
  }

  SsdConfig config() {
    return config;
  }

  /** The host tier has another size: what is under way counts on, against other bounds. */
  void hostResized(long hostBytes) {
    config = config.boundedBy(hostBytes);
  }

  /** What engines compute in a second is given otherwise from now on; 0 = as seen from saves. */
  void setRecompute(long tokensPerSecond) {
    config = config.withRecompute(tokensPerSecond);
  }

  /** A number for a transfer; its {@link #reference} is what the entries in it hold. */
  long nextId() {
    return ++lastId;
  }

  static int reference(long id) {
    return (int) (id & Integer.MAX_VALUE);
  }

  /** Blocks on their way: makes the transfer, and keeps its slots until it is drained. */
  SsdTransfer begin(long id, List<Integer> entries) {
    int blocks = entries.size();
    long[] hostSlots = new long[blocks];
    long[] ssdSlots = new long[blocks];
    List<BlockIdentity> identities = new ArrayList<>(blocks);
    for (int i = 0; i < blocks; i++) {
      int entry = entries.get(i);
      hostSlots[i] = index.getLong(entry, EntryLayout.SLOT);
      ssdSlots[i] = index.getLong(entry, EntryLayout.SSD_SLOT);
      identities.add(identity(entry));
      host.hold(hostSlots[i]);
      slots.hold(ssdSlots[i]);
    }
    touched.put(id, new Touched(hostSlots, ssdSlots));
    return new SsdTransfer(id, hostSlots, ssdSlots, identities);
  }

  /** No access of it can touch its slots any more; returns whether it was one that could. */
  boolean drained(long id) {
    Touched gone = touched.remove(id);
    if (gone == null) {
      return false;
    }
    for (int i = 0; i < gone.hostSlots.length; i++) {
      host.letGo(gone.hostSlots[i]);
      slots.letGo(gone.ssdSlots[i]);
    }
    return true;
  }

  /** Transfers that are not drained, ended or not. */
  int undrained() {
    return touched.size();
  }

  private BlockIdentity identity(int entry) {
    Namespace namespace = namespaces.require(index.getInt(entry, EntryLayout.NAMESPACE));
    int group = index.getInt(entry, EntryLayout.GROUP);
    KeySalt salt = namespace.salt(group);
    hashOf(salt, entry);
    long hashHi = probe.hi();
    long hashLo = probe.lo();
    int parent = index.getInt(entry, EntryLayout.PARENT);
    if (parent != NONE) {
      hashOf(salt, parent);
    }
    return new BlockIdentity(
        namespace.digestHi(),
        namespace.digestLo(),
        namespace.generation(),
        group,
        hashHi,
        hashLo,
        parent != NONE,
        parent == NONE ? 0 : probe.hi(),
        parent == NONE ? 0 : probe.lo(),
        namespace.slotBytes());
  }

  private void hashOf(KeySalt salt, int entry) {
    probe.hashOf(
        salt, index.getLong(entry, EntryLayout.KEY_HI), index.getLong(entry, EntryLayout.KEY_LO));
  }
}
