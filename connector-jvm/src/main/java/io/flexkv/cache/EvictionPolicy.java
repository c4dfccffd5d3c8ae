package io.flexkv.cache;

/**
 * Chooses which block goes next. There is one for each slot size, so that a victim makes room for
 * what is needed.
 *
 * <p>Only servable leaves that nobody pins may be chosen ({@link Copies}). Blocks change in that
 * respect all the time; a policy need not follow each change but must offer each block again that
 * became evictable, and is told so by {@link #inherit} (the last child has gone) and {@link
 * #released} (the last pin has gone).
 */
interface EvictionPolicy {
  /** An entry became servable. */
  void add(int entry);

  /**
   * An entry was servable before this policy was; nothing happens if it is known already. It keeps
   * its time of use. What is not known yet is no victim.
   */
  void learn(int entry);

  /** An entry was the deepest one that a lookup could serve. */
  void touch(int entry);

  /** An entry lost its last child; it takes that child's place if it was used earlier itself. */
  void inherit(int entry, int child);

  /** An entry lost its last pin. */
  void released(int entry);

  /** An entry that was added goes, evicted or not. */
  void remove(int entry);

  /** The entry to evict next, or {@link BlockIndex#NONE}; it stays until it is removed. */
  int victim();

  /** Entries added and not removed. */
  int size();
}
