package io.flexkv.cache;

/**
 * The fields of an entry of {@link BlockIndex}: 5 longs and 14 ints, 96 bytes.
 *
 * <pre>
 * longs  0 KEY_HI   1 KEY_LO   2 SLOT   3 HASH   4 RECENCY
 * ints   0 PARENT   1 FIRST_CHILD   2 NEXT_SIBLING   3 PREVIOUS_SIBLING   4 CHILDREN
 *        5 PINS     6 STATE         7 NAMESPACE      8 GROUP
 *        9 ATTEMPT 10 ATTEMPT_INDEX
 *       11 OLDER   12 NEWER        13 LISTED
 * </pre>
 */
final class EntryLayout {
  static final int KEY_HI = 0;
  static final int KEY_LO = 1;

  /** Handle of the slot that holds the bytes. */
  static final int SLOT = 2;

  /** Last 8 bytes of the block's hash, for KV events. */
  static final int HASH = 3;

  /** When it was last used, in ticks of the eviction policy. */
  static final int RECENCY = 4;

  static final int LONGS = 5;

  static final int PARENT = 0;
  static final int FIRST_CHILD = 1;
  static final int NEXT_SIBLING = 2;
  static final int PREVIOUS_SIBLING = 3;

  /** Number of children, on their way in or servable. */
  static final int CHILDREN = 4;

  /** Leases, load jobs and saves of children that need this entry (and so its ancestors). */
  static final int PINS = 5;

  /** {@link #PENDING}, {@link #COMPLETE} or {@link #READY}. */
  static final int STATE = 6;

  static final int NAMESPACE = 7;
  static final int GROUP = 8;

  /** Reference of the save attempt that is bringing it in, or NONE. */
  static final int ATTEMPT = 9;

  /** Its place in that attempt. */
  static final int ATTEMPT_INDEX = 10;

  /** Neighbours in the list of the eviction policy, and whether it is in it at all. */
  static final int OLDER = 11;

  static final int NEWER = 12;
  static final int LISTED = 13;

  /** What a policy with a heap keeps in the same two fields. */
  static final int HEAP_PLACE = OLDER;

  static final int HITS = NEWER;

  static final int INTS = 14;

  /** Some parts are not in. */
  static final int PENDING = 0;

  /** All parts are in, but the parent is not servable yet. */
  static final int COMPLETE = 1;

  /** Servable. */
  static final int READY = 2;

  private EntryLayout() {}
}
