package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static org.assertj.core.api.Assertions.assertThat;

import java.util.HashSet;
import java.util.Set;

/** Walks the core's blocks and insists on what must hold of their links, whatever happened. */
final class TreeChecker {
  private final BlockIndex index;
  private final Namespaces namespaces;
  private final Set<Integer> seen = new HashSet<>();

  private TreeChecker(CacheCore core) {
    index = core.index();
    namespaces = core.namespaces();
  }

  /** Checks every entry; returns how many there are. */
  static int check(CacheCore core) {
    TreeChecker checker = new TreeChecker(core);
    for (int handle = 0; handle < checker.namespaces.size(); handle++) {
      checker.siblings(NONE, checker.namespaces.require(handle).firstRoot, handle);
    }
    assertThat(checker.seen).as("entries reached from the roots").hasSize(core.index().size());
    return checker.seen.size();
  }

  static int find(CacheCore core, int namespace, int group, long hashHi, long hashLo) {
    KeySalt salt = core.namespaces().require(namespace).salt(group);
    KeyProbe probe = new KeyProbe().set(salt, hashHi, hashLo);
    return core.index().find(probe.hi(), probe.lo());
  }

  private int siblings(int parent, int first, int namespace) {
    int count = 0;
    int inHost = 0;
    int onSsd = 0;
    int held = 0;
    int previous = NONE;
    for (int entry = first; entry != NONE; entry = get(entry, EntryLayout.NEXT_SIBLING)) {
      assertThat(seen.add(entry)).as("entry %s is reached once", entry).isTrue();
      assertThat(get(entry, EntryLayout.PREVIOUS_SIBLING)).isEqualTo(previous);
      assertThat(get(entry, EntryLayout.PARENT)).isEqualTo(parent);
      assertThat(get(entry, EntryLayout.NAMESPACE)).isEqualTo(namespace);
      assertThat(
              index.find(
                  index.getLong(entry, EntryLayout.KEY_HI),
                  index.getLong(entry, EntryLayout.KEY_LO)))
          .isEqualTo(entry);
      copies(parent, entry);
      inHost += get(entry, EntryLayout.HOST) != EntryLayout.HOST_NONE ? 1 : 0;
      onSsd += get(entry, EntryLayout.SSD) >= EntryLayout.SSD_WRITING ? 1 : 0;
      held += get(entry, EntryLayout.SSD) == EntryLayout.SSD_HELD ? 1 : 0;
      if (parent != NONE && get(entry, EntryLayout.STATE) == EntryLayout.READY) {
        assertThat(get(parent, EntryLayout.STATE))
            .as("the parent of a servable block")
            .isEqualTo(EntryLayout.READY);
      }
      assertThat(siblings(entry, get(entry, EntryLayout.FIRST_CHILD), namespace))
          .as("children of entry %s", entry)
          .isEqualTo(get(entry, EntryLayout.CHILDREN));
      previous = entry;
      count++;
    }
    if (parent != NONE) {
      assertThat(get(parent, EntryLayout.HOST_CHILDREN)).as("host children").isEqualTo(inHost);
      assertThat(get(parent, EntryLayout.SSD_CHILDREN)).as("SSD children").isEqualTo(onSsd);
      if (get(parent, EntryLayout.STATE) == EntryLayout.READY) {
        assertThat(get(parent, EntryLayout.SSD_HELD_CHILDREN)).as("held").isEqualTo(held);
      }
    }
    return count;
  }

  /** In which tiers it is, and that this goes with where its parent is. */
  private void copies(int parent, int entry) {
    boolean ready = get(entry, EntryLayout.STATE) == EntryLayout.READY;
    int host = get(entry, EntryLayout.HOST);
    int ssd = get(entry, EntryLayout.SSD);
    if (!ready) {
      assertThat(host).isEqualTo(EntryLayout.HOST_THERE);
      assertThat(ssd).isEqualTo(EntryLayout.SSD_NONE);
      return;
    }
    boolean held = ssd == EntryLayout.SSD_HELD;
    assertThat(host == EntryLayout.HOST_THERE || held).as("a servable block is somewhere").isTrue();
    if (ssd == EntryLayout.SSD_WRITTEN) {
      assertThat(parent).as("waits for its parent").isNotEqualTo(NONE);
      assertThat(get(parent, EntryLayout.SSD)).as("waits").isNotEqualTo(EntryLayout.SSD_HELD);
    }
    if (held && parent != NONE) {
      assertThat(get(parent, EntryLayout.SSD)).as("SSD closed").isEqualTo(EntryLayout.SSD_HELD);
    }
    boolean hot =
        host == EntryLayout.HOST_THERE && (parent == NONE || get(parent, EntryLayout.HOT) != 0);
    assertThat(get(entry, EntryLayout.HOT) != 0).as("hot").isEqualTo(hot);
    offered(Tier.HOST, entry);
    offered(Tier.SSD, entry);
  }

  /** Whatever may go must be known to its policy as such: else it would stay for ever. */
  private void offered(Tier tier, int entry) {
    if (Copies.evictable(tier, index, entry)) {
      PolicyFields fields = PolicyFields.of(tier);
      EvictionPolicy policy = namespaces.require(get(entry, EntryLayout.NAMESPACE)).policy(tier);
      boolean heap = policy instanceof HeapPolicy;
      boolean linked = (get(entry, fields.listed()) & PolicyEra.LISTED) != 0;
      assertThat(heap ? get(entry, fields.heapPlace()) >= 0 : linked)
          .as("entry %s is offered for eviction from %s", entry, tier)
          .isTrue();
    }
  }

  private int get(int entry, int field) {
    return index.getInt(entry, field);
  }
}
