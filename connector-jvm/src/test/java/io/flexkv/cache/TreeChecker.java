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
    return count;
  }

  private int get(int entry, int field) {
    return index.getInt(entry, field);
  }
}
