package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static io.flexkv.cache.EntryLayout.SSD_HELD;
import static io.flexkv.cache.EntryLayout.SSD_QUEUED;
import static io.flexkv.cache.EntryLayout.SSD_SLOT;

import java.util.Arrays;
import java.util.function.LongPredicate;
import org.jspecify.annotations.Nullable;

/**
 * What the SSD tier tells the cache core: how transfers went, what it lost, and what it found after
 * a restart. Part of {@link CacheCore}, and for its thread; reports may come late, twice, or for
 * transfers that are not known (any more).
 */
public final class SsdReports {
  /** Chains that may grow side by side, about, until a parent is looked for in the index. */
  private static final int ADOPTED = 1 << 10;

  private final SsdTier tier;
  private final BlockIndex index;
  private final Namespaces namespaces;
  private final BlockTree tree;
  private final Promotions promotions;
  private final SsdWrites writes;
  private final LoadJobs loads;
  private final Losses losses;
  private final LostCopies lostCopies;
  private final Counters counters;
  private final KeyProbe probe = new KeyProbe();

  /**
   * By the last bits of their keys: entries that were adopted lately, or {@link BlockIndex#NONE}.
   */
  private final int[] adopted = new int[ADOPTED];

  /** The namespace of the last block that was found on the SSD. */
  private @Nullable Namespace latest;

  SsdReports(
      SsdTier tier,
      BlockIndex index,
      Namespaces namespaces,
      BlockTree tree,
      Promotions promotions,
      SsdWrites writes,
      LoadJobs loads,
      Losses losses,
      Counters counters) {
    this.tier = tier;
    this.index = index;
    this.namespaces = namespaces;
    this.tree = tree;
    this.promotions = promotions;
    this.writes = writes;
    this.loads = loads;
    this.losses = losses;
    this.lostCopies = new LostCopies(index, tree, losses);
    this.counters = counters;
    Arrays.fill(adopted, NONE);
  }

  /**
   * Leading blocks of a read are in their host slots, verified.
   *
   * @param ready how many; never goes back
   */
  public void readProgress(long id, int ready) {
    Promotion read = promotions.progress(id, ready);
    if (read == null) {
      counters.ignoredCalls++;
      return;
    }
    loads.readMoved(read, false);
  }

  /**
   * A read has ended.
   *
   * @param ready leading blocks that are in their host slots, verified
   * @param badSlot the SSD slot whose block is lost (its bytes did not verify, or cannot be read),
   *     or {@link SlotAllocator#FULL}
   * @param drained whether no access of it can touch its slots any more; if not, {@link #drained}
   *     follows
   */
  public void readEnded(long id, int ready, long badSlot, boolean drained) {
    Promotion read = promotions.ended(id, ready);
    if (read == null) {
      counters.ignoredCalls++;
      return;
    }
    loads.readMoved(read, true);
    if (badSlot != SlotAllocator.FULL) {
      for (int entry : read.entries) {
        if (holds(entry, badSlot)) {
          losses.lose(entry);
          break;
        }
      }
    }
    if (drained) {
      tier.drained(id);
    }
  }

  /**
   * A write has ended.
   *
   * @param stored for each of its blocks whether a read would find it; what is missing is not
   * @param drained as for {@link #readEnded}
   */
  public void written(long id, boolean[] stored, boolean drained) {
    if (!writes.done(id, stored)) {
      counters.ignoredCalls++;
      return;
    }
    if (drained) {
      tier.drained(id);
    }
    writes.pump();
  }

  /** Goes on with what takes more than a call; returns how much it did. */
  int turn() {
    return lostCopies.step();
  }

  /** No access of a transfer that has ended can touch its slots any more. */
  public void drained(long id) {
    if (promotions.isOpen(id) || writes.isOpen(id) || !tier.drained(id)) {
      counters.ignoredCalls++;
    }
  }

  /**
   * SSD slots are lost, for example those of a directory: what lies in them is not there. Of many
   * blocks {@link CacheCore#turn} forgets the rest; {@link #forgets} tells how long.
   *
   * @param slots asked until then; no other block may come to lie in one of these meanwhile
   */
  public void lost(LongPredicate slots) {
    lostCopies.lost(slots);
  }

  /** Whether not all that is {@link #lost} is forgotten yet. */
  public boolean forgets() {
    return lostCopies.hasMore();
  }

  private boolean holds(int entry, long ssdSlot) {
    return tree.copies().onSsd(entry) == SSD_HELD && index.getLong(entry, SSD_SLOT) == ssdSlot;
  }

  /** What became of a block that was offered to {@link #adopt}. */
  public enum Adoption {
    /** It is the core's now. */
    TAKEN,
    /** Its namespace was reset, it is there already, or a limit is met: the slot stays its own. */
    REFUSED,
    /** Its parent is not there, and may come: the slot stays the caller's. */
    NO_PARENT
  }

  /** Any thread: makes room in memory for blocks that are about to be adopted. */
  public void reserve() {
    index.reserve();
  }

  /**
   * Some of these blocks are about to be adopted, one right after another. Says the same of all of
   * them to the index, so that they wait for memory together; changes nothing.
   */
  public void approach(FoundBlocks blocks, int from, int until) {
    for (int i = from; i < until; i++) {
      index.approach(blocks.keyHi(i), blocks.keyLo(i));
    }
  }

  /** As the other one, where the tier has room for another block. */
  public Adoption adopt(BlockIdentity block, long ssdSlot) {
    return adopt(block, ssdSlot, false);
  }

  /** As the other one, of a block by itself. */
  public Adoption adopt(BlockIdentity block, long ssdSlot, boolean full) {
    FoundBlocks found = new FoundBlocks(1);
    found.add(block);
    return adopt(found, 0, ssdSlot, full);
  }

  /**
   * A block was found on the SSD after a restart. Parents come first, and of the rest the one that
   * was written first.
   *
   * @param i which one of {@code blocks}
   * @param full whether one that was adopted earlier must give way: blocks that had been evicted
   *     come back as well, and those that were written last shall not be lost for them
   */
  public Adoption adopt(FoundBlocks blocks, int i, long ssdSlot, boolean full) {
    FoundBlocks.Kind kind = blocks.kind(i);
    Namespace namespace = namespaceOf(kind);
    if (namespace == null || !namespace.hasGroup(kind.group())) {
      return Adoption.REFUSED;
    }
    int parent = NONE;
    if (blocks.hasParent(i)) {
      parent = held(probe.setKey(blocks.parentKeyHi(i), blocks.parentKeyLo(i)));
      if (parent == NONE) {
        return Adoption.NO_PARENT;
      }
    }
    Copies copies = tree.copies();
    int entry = tree.find(probe.setKey(blocks.keyHi(i), blocks.keyLo(i)));
    boolean fits =
        entry == NONE
            || (tree.isReady(entry)
                && tree.parent(entry) == parent
                && copies.onSsd(entry) <= SSD_QUEUED);
    if (!fits || (full && !evictOne(namespace, parent))) {
      return Adoption.REFUSED;
    }
    if (entry == NONE) {
      entry = tree.addHeld(namespace, kind.group(), probe, blocks.hash(i), parent, ssdSlot);
    } else {
      copies.adopt(entry, ssdSlot);
    }
    adopted[(int) probe.lo() & (ADOPTED - 1)] = entry;
    counters.adoptedBlocks++;
    return Adoption.TAKEN;
  }

  /**
   * The entry of a key that is held on the SSD, or NONE. Parents were adopted a moment ago, as a
   * rule. An entry that has gone since is not held there: a row that says so is an entry.
   */
  private int held(KeyProbe key) {
    int entry = adopted[(int) key.lo() & (ADOPTED - 1)];
    if (entry != NONE && tree.hasKey(entry, key) && tree.copies().onSsd(entry) == SSD_HELD) {
      return entry;
    }
    entry = tree.find(key);
    return entry != NONE && tree.copies().onSsd(entry) == SSD_HELD ? entry : NONE;
  }

  /** Blocks of one namespace come one after another. */
  private @Nullable Namespace namespaceOf(FoundBlocks.Kind kind) {
    Namespace last = latest;
    if (last == null
        || last.digestHi() != kind.digestHi()
        || last.digestLo() != kind.digestLo()
        || last.slotBytes() != kind.slotBytes()
        || last.generation() != kind.generation()) {
      last =
          namespaces.ofSurvivors(
              kind.digestHi(), kind.digestLo(), kind.slotBytes(), kind.generation());
      latest = last;
    }
    return last;
  }

  /** Evicts the block of this namespace that is next to go, but not this one. */
  private boolean evictOne(Namespace namespace, int kept) {
    if (kept != NONE) {
      tree.pin(kept);
    }
    int victim = namespace.policy(Tier.SSD).victim();
    if (kept != NONE) {
      tree.unpin(kept);
    }
    if (victim != NONE) {
      tree.evict(Tier.SSD, victim);
    }
    return victim != NONE;
  }
}
