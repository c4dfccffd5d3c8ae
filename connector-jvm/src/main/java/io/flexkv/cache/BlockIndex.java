package io.flexkv.cache;

/**
 * The table of blocks: from a 128-bit key to an entry, and the fields of an entry. It knows nothing
 * of what they mean. Entries are handles (small non-negative ints), valid until removed; fields are
 * named by the constants of {@link EntryLayout}, so that an implementation may keep an entry as one
 * row on the heap or off it.
 *
 * <p>Cache thread only, except {@link #reserve}.
 */
interface BlockIndex {
  /** No entry. */
  int NONE = -1;

  /** The entry of a key, or {@link #NONE}. */
  int find(long keyHi, long keyLo);

  /**
   * Somebody looks for this key soon: reads what that will need of memory. Several such calls, one
   * right after another, wait for the memory together, where the searches would wait one by one.
   */
  void approach(long keyHi, long keyLo);

  /**
   * Makes memory ready for entries that come soon, so that {@link #insert} need not. For any
   * thread: what is made here goes through a queue, and nobody else knows of it before.
   */
  void reserve();

  /** Adds an entry for a key that must be absent; its fields are 0, its links {@link #NONE}. */
  int insert(long keyHi, long keyLo);

  /** Removes an entry; its handle may come back for another one. */
  void remove(int entry);

  int getInt(int entry, int field);

  void setInt(int entry, int field, int value);

  long getLong(int entry, int field);

  void setLong(int entry, int field, long value);

  /** Whether this handle, below {@link #handles}, is that of an entry. */
  boolean isEntry(int handle);

  /** All handles so far are below it. */
  int handles();

  /** Entries present. */
  int size();
}
