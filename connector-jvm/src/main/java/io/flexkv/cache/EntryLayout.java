package io.flexkv.cache;

/**
 * The fields of an entry of {@link BlockIndex}: 7 longs and 22 ints, 144 bytes.
 *
 * <pre>
 * longs  0 KEY_HI   1 KEY_LO   2 SLOT   3 HASH   4 RECENCY   5 SSD_SLOT   6 SSD_RECENCY
 * ints   0 PARENT   1 FIRST_CHILD   2 NEXT_SIBLING   3 PREVIOUS_SIBLING   4 CHILDREN
 *        5 PINS     6 STATE         7 NAMESPACE      8 GROUP
 *        9 OWNER   10 ATTEMPT_INDEX or SSD_HELD_CHILDREN
 *       11 OLDER   12 NEWER        13 LISTED
 *       14 HOST    15 SSD          16 HOT           17 HOST_CHILDREN    18 SSD_CHILDREN
 *       19 SSD_OLDER   20 SSD_NEWER   21 SSD_LISTED
 * </pre>
 */
final class EntryLayout {
  static final int KEY_HI = 0;
  static final int KEY_LO = 1;

  /** Handle of the host slot, if {@link #HOST} says that there is one. */
  static final int SLOT = 2;

  /** Last 8 bytes of the block's hash, for KV events. */
  static final int HASH = 3;

  /** When it was last used, in ticks of the host tier's eviction policy. */
  static final int RECENCY = 4;

  /** Handle of the SSD slot, if {@link #SSD} says that there is one. */
  static final int SSD_SLOT = 5;

  /** When it was last used, in ticks of the SSD tier's eviction policy. */
  static final int SSD_RECENCY = 6;

  static final int LONGS = 7;

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

  /**
   * Until it is servable: reference of the save attempt that brings it in, NONE once complete. Of a
   * servable one: number of the SSD transfer that it is in, or NONE.
   */
  static final int OWNER = 9;

  /** Until it is servable: its place in that attempt. */
  static final int ATTEMPT_INDEX = 10;

  /** Of a servable one: how many children are {@link #SSD_HELD}. */
  static final int SSD_HELD_CHILDREN = 10;

  /** What the host tier's policy keeps besides: see {@link PolicyFields}. */
  static final int OLDER = 11;

  static final int NEWER = 12;
  static final int LISTED = 13;

  /** {@link #HOST_NONE}, {@link #HOST_READING} or {@link #HOST_THERE}. */
  static final int HOST = 14;

  /** One of {@code SSD_…}, in the order in which a write goes through them. */
  static final int SSD = 15;

  /** Whether it and all its ancestors are servable from the host tier. */
  static final int HOT = 16;

  /** Children that have a host slot, whatever its state. */
  static final int HOST_CHILDREN = 17;

  /** Children that have an SSD slot, whatever its state. */
  static final int SSD_CHILDREN = 18;

  /** As the three of the host tier's policy. */
  static final int SSD_OLDER = 19;

  static final int SSD_NEWER = 20;
  static final int SSD_LISTED = 21;

  static final int INTS = 22;

  /** Some parts are not in. */
  static final int PENDING = 0;

  /** All parts are in, but the parent is not servable yet. */
  static final int COMPLETE = 1;

  /** Servable from some tier. */
  static final int READY = 2;

  /** No host slot. */
  static final int HOST_NONE = 0;

  /** It has a host slot, which is being filled from the SSD. */
  static final int HOST_READING = 1;

  /** It has a host slot, with its bytes if it is servable. */
  static final int HOST_THERE = 2;

  static final int SSD_NONE = 0;

  /** No slot yet; it waits to be written. */
  static final int SSD_QUEUED = 1;

  /** Its slot is being written. */
  static final int SSD_WRITING = 2;

  /** Written, but the parent is not held yet. */
  static final int SSD_WRITTEN = 3;

  /** Written, and so are all its ancestors: servable from the SSD. */
  static final int SSD_HELD = 4;

  private EntryLayout() {}
}
