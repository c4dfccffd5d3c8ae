package io.flexkv.cache;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.jspecify.annotations.Nullable;

/**
 * {@link BlockIndex} outside the heap, so that a hundred million blocks cost the collector nothing.
 * It grows by a little at a time: nobody's lookup waits while millions of entries are moved.
 *
 * <p><b>Rows.</b> Entries are rows of {@value #ROW_BYTES} bytes ({@link EntryLayout}: longs, then
 * ints), {@value #CHUNK_ROWS} of them a chunk; another chunk moves nothing. Removed handles are
 * used again, last out first in; the link to the next one lies in the row.
 *
 * <p><b>Keys.</b> Extendible hashing: the upper bits of a key's hash choose one of the tables, the
 * lower bits of its {@link #tagOf tag} a place in it, from where linear probing goes on. A table
 * that is three quarters full is split by the next bit into two, which moves at most {@value
 * #TABLE_SLOTS} places; where all tables have as many bits as the directory, that doubles first,
 * which is a copy of some kilobytes. A place holds handle and tag, and the tag tells tables, places
 * and most strangers apart, so that neither a search nor a split looks at a row that is not meant.
 *
 * <pre>
 *   hash  63            44 43            32 31      0
 *         [ table bits 20 ][ place bits 12 ][ unused ]
 *   tag = the upper 32 bits        place = tag &lt;&lt; 32 | handle + 1, 0 = empty
 * </pre>
 */
final class OffHeapBlockIndex implements BlockIndex {
  private static final int CHUNK_BITS = 13;
  private static final int CHUNK_ROWS = 1 << CHUNK_BITS;
  private static final int FIRST_ROWS = 64;

  /** Chunks that {@link #reserve} makes before they are needed: one is used up in milliseconds. */
  private static final int RESERVED_CHUNKS = 2;

  private static final int ROW_BYTES =
      EntryLayout.LONGS * Long.BYTES + EntryLayout.INTS * Integer.BYTES;
  private static final int INTS_OFFSET = EntryLayout.LONGS * Long.BYTES;

  private static final int TABLE_SLOTS = 1 << 12;
  private static final int FIRST_SLOTS = 128;
  private static final int MAX_DEPTH = 20;

  /** Of a removed row: the handle that was removed before it. Nobody looks at it there. */
  private static final int NEXT_FREE = EntryLayout.ATTEMPT_INDEX;

  /** The places of keys whose hashes begin with the same bits. */
  private static final class Table {
    final MemorySegment places;
    final int mask;
    final int depth;
    int size;

    Table(MemorySegment places, int slots, int depth) {
      this.places = places;
      this.mask = slots - 1;
      this.depth = depth;
    }

    boolean isCrowded() {
      return 4 * (size + 1) > 3 * (mask + 1);
    }

    long get(int at) {
      return places.getAtIndex(JAVA_LONG, at);
    }

    void set(int at, long place) {
      places.setAtIndex(JAVA_LONG, at, place);
    }

    /** Adds a place that is not there. */
    void add(long place) {
      int at = tag(place) & mask;
      while (get(at) != 0) {
        at = (at + 1) & mask;
      }
      set(at, place);
      size++;
    }

    /** Empties a place, and moves later ones back, so that no search stops too early. */
    void remove(int removed) {
      int gap = removed;
      for (int i = (gap + 1) & mask; get(i) != 0; i = (i + 1) & mask) {
        int distance = (i - tag(get(i))) & mask;
        if (distance >= ((i - gap) & mask)) {
          set(gap, get(i));
          gap = i;
        }
      }
      set(gap, 0);
      size--;
    }
  }

  private final long seed;
  private final Arena arena = Arena.ofAuto();
  private final MemorySegment emptyRow = MemorySegment.ofArray(new long[ROW_BYTES / Long.BYTES]);

  /** By the upper {@link #depth} bits of a hash; a table of fewer bits is there several times. */
  private Table[] directory;

  private int depth;

  /** An empty table's memory, left over from a split. */
  private @Nullable MemorySegment spare;

  private MemorySegment[] chunks = new MemorySegment[1];
  private final Queue<MemorySegment> reserved = new ConcurrentLinkedQueue<>();
  private int rows = FIRST_ROWS;
  private int free = NONE;
  private int highWater;
  private int size;

  /** Means nothing, but without it nobody would need what {@link #approach} reads. */
  @SuppressWarnings("UnusedVariable")
  private long approached;

  /**
   * An empty index.
   *
   * @param seed where keys fall in the tables depends on it, and nothing else does
   */
  OffHeapBlockIndex(long seed) {
    this.seed = KeySalt.mix(seed);
    directory = new Table[] {newTable(FIRST_SLOTS, 0)};
    // Not of the arena, for it is replaced by larger ones.
    chunks[0] = Arena.ofAuto().allocate((long) FIRST_ROWS * ROW_BYTES, Long.BYTES);
    for (int field :
        new int[] {
          EntryLayout.PARENT,
          EntryLayout.FIRST_CHILD,
          EntryLayout.NEXT_SIBLING,
          EntryLayout.PREVIOUS_SIBLING,
          EntryLayout.OWNER,
          EntryLayout.OLDER,
          EntryLayout.NEWER,
          EntryLayout.SSD_OLDER,
          EntryLayout.SSD_NEWER
        }) {
      emptyRow.set(JAVA_INT, INTS_OFFSET + (long) field * Integer.BYTES, NONE);
    }
  }

  private Table newTable(int slots, int bits) {
    MemorySegment places = slots == TABLE_SLOTS ? spare : null;
    if (places == null) {
      // The shorter ones are replaced, and there is none of them when there are many.
      Arena owner = slots < TABLE_SLOTS ? Arena.ofAuto() : arena;
      places = owner.allocate((long) slots * Long.BYTES, Long.BYTES);
    } else {
      spare = null;
    }
    return new Table(places, slots, bits);
  }

  // ---- keys

  private long hash(long keyHi, long keyLo) {
    return KeySalt.mix((keyLo ^ seed) + Long.rotateLeft(keyHi, 23));
  }

  private static int tagOf(long hash) {
    return (int) (hash >>> 32);
  }

  private static int tag(long place) {
    return (int) (place >>> 32);
  }

  private static int handle(long place) {
    return (int) place - 1;
  }

  private Table tableOf(int tag) {
    return directory[depth == 0 ? 0 : tag >>> (Integer.SIZE - depth)];
  }

  @Override
  public int find(long keyHi, long keyLo) {
    int tag = tagOf(hash(keyHi, keyLo));
    Table table = tableOf(tag);
    int mask = table.mask;
    for (int at = tag & mask; ; at = (at + 1) & mask) {
      long place = table.get(at);
      if (place == 0) {
        return NONE;
      }
      if (tag(place) == tag && holds(handle(place), keyHi, keyLo)) {
        return handle(place);
      }
    }
  }

  @Override
  public void approach(long keyHi, long keyLo) {
    int tag = tagOf(hash(keyHi, keyLo));
    Table table = tableOf(tag);
    approached += table.get(tag & table.mask);
  }

  private boolean holds(int entry, long keyHi, long keyLo) {
    return getLong(entry, EntryLayout.KEY_LO) == keyLo
        && getLong(entry, EntryLayout.KEY_HI) == keyHi;
  }

  @Override
  public int insert(long keyHi, long keyLo) {
    if (find(keyHi, keyLo) != NONE) {
      throw new IllegalStateException("key %016x%016x is taken".formatted(keyHi, keyLo));
    }
    int tag = tagOf(hash(keyHi, keyLo));
    while (tableOf(tag).isCrowded()) {
      grow(tag);
    }
    int entry = takeRow();
    tableOf(tag).add((long) tag << 32 | (entry + 1));
    size++;
    MemorySegment.copy(emptyRow, 0, chunks[entry >>> CHUNK_BITS], row(entry), ROW_BYTES);
    setLong(entry, EntryLayout.KEY_HI, keyHi);
    setLong(entry, EntryLayout.KEY_LO, keyLo);
    return entry;
  }

  @Override
  public void remove(int entry) {
    int tag = tagOf(hash(getLong(entry, EntryLayout.KEY_HI), getLong(entry, EntryLayout.KEY_LO)));
    Table table = tableOf(tag);
    long wanted = (long) tag << 32 | (entry + 1);
    int at = tag & table.mask;
    for (long place; (place = table.get(at)) != wanted; at = (at + 1) & table.mask) {
      if (place == 0) {
        throw new IllegalStateException("entry " + entry + " is not in the index");
      }
    }
    table.remove(at);
    size--;
    setInt(entry, NEXT_FREE, free);
    free = entry;
  }

  /** Makes the table of a tag less crowded: twice its length, or half its keys. */
  private void grow(int tag) {
    Table full = tableOf(tag);
    if (full.mask + 1 < TABLE_SLOTS) {
      Table longer = newTable(2 * (full.mask + 1), 0);
      move(full, longer, longer);
      directory[0] = longer;
      return;
    }
    if (full.depth == depth) {
      if (depth == MAX_DEPTH) {
        throw new IllegalStateException("%d blocks, and no room for more".formatted(size));
      }
      Table[] twice = new Table[2 * directory.length];
      for (int i = 0; i < twice.length; i++) {
        twice[i] = directory[i / 2];
      }
      directory = twice;
      depth++;
    }
    split(full, tag);
  }

  private void split(Table full, int tag) {
    Table zero = newTable(TABLE_SLOTS, full.depth + 1);
    Table one = newTable(TABLE_SLOTS, full.depth + 1);
    move(full, zero, one);
    int copies = 1 << (depth - full.depth);
    int first = (tag >>> (Integer.SIZE - depth)) & -copies;
    Arrays.fill(directory, first, first + copies / 2, zero);
    Arrays.fill(directory, first + copies / 2, first + copies, one);
    spare = full.places.fill((byte) 0);
  }

  /** Puts each place where the first bit of its tag says that its table does not look at yet. */
  private static void move(Table from, Table zero, Table one) {
    for (int at = 0; at <= from.mask; at++) {
      long place = from.get(at);
      if (place != 0) {
        boolean bit = (tag(place) << from.depth) < 0;
        (bit ? one : zero).add(place);
      }
    }
  }

  // ---- rows

  private int takeRow() {
    int entry = free;
    if (entry != NONE) {
      free = getInt(entry, NEXT_FREE);
      return entry;
    }
    if (highWater == rows) {
      addRows();
    }
    return highWater++;
  }

  /** The first chunk becomes longer until it has its length; then there are more. */
  private void addRows() {
    if (rows < CHUNK_ROWS) {
      MemorySegment longer = Arena.ofAuto().allocate(2L * rows * ROW_BYTES, Long.BYTES);
      longer.asSlice(0, chunks[0].byteSize()).copyFrom(chunks[0]);
      chunks[0] = longer;
      rows *= 2;
      return;
    }
    int chunk = rows >>> CHUNK_BITS;
    if (chunk == chunks.length) {
      chunks = Arrays.copyOf(chunks, 2 * chunk);
    }
    MemorySegment ready = reserved.poll();
    chunks[chunk] = ready == null ? newChunk() : ready;
    rows = Math.addExact(rows, CHUNK_ROWS);
  }

  /** Its pages come here, and with them most of the time that this takes. */
  private MemorySegment newChunk() {
    return arena.allocate((long) CHUNK_ROWS * ROW_BYTES, Long.BYTES);
  }

  @Override
  public void reserve() {
    if (reserved.size() < RESERVED_CHUNKS) {
      reserved.add(newChunk());
    }
  }

  private static long row(int entry) {
    return (long) (entry & (CHUNK_ROWS - 1)) * ROW_BYTES;
  }

  @Override
  public int getInt(int entry, int field) {
    return chunks[entry >>> CHUNK_BITS].get(
        JAVA_INT, row(entry) + INTS_OFFSET + (long) field * Integer.BYTES);
  }

  @Override
  public void setInt(int entry, int field, int value) {
    chunks[entry >>> CHUNK_BITS].set(
        JAVA_INT, row(entry) + INTS_OFFSET + (long) field * Integer.BYTES, value);
  }

  @Override
  public long getLong(int entry, int field) {
    return chunks[entry >>> CHUNK_BITS].get(JAVA_LONG, row(entry) + (long) field * Long.BYTES);
  }

  @Override
  public void setLong(int entry, int field, long value) {
    chunks[entry >>> CHUNK_BITS].set(JAVA_LONG, row(entry) + (long) field * Long.BYTES, value);
  }

  @Override
  public boolean isEntry(int handle) {
    return find(getLong(handle, EntryLayout.KEY_HI), getLong(handle, EntryLayout.KEY_LO)) == handle;
  }

  @Override
  public int handles() {
    return highWater;
  }

  @Override
  public int size() {
    return size;
  }
}
