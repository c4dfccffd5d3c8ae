package io.flexkv.tier.ssd;

import static io.flexkv.tier.ssd.HeaderPageDescriptor.INT;
import static io.flexkv.tier.ssd.HeaderPageDescriptor.LONG;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a directory says of itself, kept twice in {@code flexkv-ssd.meta}; the copies are written in
 * turns, and the valid one with the greater sequence counts. Little-endian, 65,536 bytes each:
 *
 * <pre>
 *     0 u64 magic "FKVSSDM1"            8 u32 format version    12 u32 bytes of a copy
 *    16 u64 sequence                   24 u64 directory id (random, new at each format)
 *    32 u64 extent bytes               40 u64 longest file
 *    48 u32 extents                    52 u32 members
 *    56 u32 namespaces                 60 u32 flags: 1 = ended cleanly
 *    64 u64 floor: headers of a lower sequence are void
 *    72 u32 cuts                       76 u32 0
 *    80     cuts {u32 extent, u32 0, u64 sequence}, 32 at most, by ascending extent
 *  1000 u64 sequences below it may have been given out          1008 u64 uses of log extents likewise
 *  1016 u64 doubt: headers of a lower sequence may be wrong about their slots, clean end or not
 *  1024     directory ids of all members, 64 at most
 *  2048     namespaces {u64 digest upper, u64 lower, u32 generation, u32 0}, 2,000 at most
 * 57344     bitmap of the extents that the header log has, 65,504 extents at most
 * 65532 u32 CRC32C of the 65,532 bytes before
 * </pre>
 *
 * <p>Members are all directories that were in use together. A reset is durable once one of them has
 * it, so the contents of a directory count only where all its members are there.
 *
 * <p>A cut says that the directory was once so short: spans of a lower sequence that reach beyond
 * its extent are void, though the directory may have grown there again.
 *
 * <p>Not thread-safe.
 */
final class DirectoryMeta {
  static final int BYTES = 65536;
  static final int VERSION = 1;
  static final int MAX_NAMESPACES = 2000;
  static final int MAX_EXTENTS = 65504;
  static final int MAX_CUTS = 32;

  private static final long MAGIC = 0x314D445353564B46L;
  private static final int FLAG_CLEAN = 1;
  private static final int CUTS_OFFSET = 80;
  private static final int CUT_BYTES = 16;
  private static final int SEQUENCES_OFFSET = 1000;
  private static final int USES_OFFSET = 1008;
  private static final int DOUBT_OFFSET = 1016;
  private static final int MEMBERS_OFFSET = 1024;
  private static final int NAMESPACES_OFFSET = 2048;
  private static final int NAMESPACE_BYTES = 24;
  private static final int BITMAP_OFFSET = 57344;
  private static final int CRC_OFFSET = BYTES - 4;

  /** A namespace. */
  record Digest(long hi, long lo) {}

  private record Cut(int extent, long sequence) {}

  final long directoryId;
  final long extentBytes;
  final long fileBytes;

  /** Changed by the care thread, read by any. */
  volatile int extents;

  long sequence;
  boolean clean;
  long floor;
  long doubtBelow;
  long sequences;
  long uses;
  long[] members = new long[0];
  final Map<Digest, Integer> generations = new LinkedHashMap<>();
  final BitSet logExtents = new BitSet();
  private final List<Cut> cuts = new ArrayList<>();

  DirectoryMeta(long directoryId, long extentBytes, long fileBytes, int extents) {
    if (extents < 1 || extents > MAX_EXTENTS) {
      throw new IllegalArgumentException(
          "extents=%d, wanted 1 to %d".formatted(extents, MAX_EXTENTS));
    }
    this.directoryId = directoryId;
    this.extentBytes = extentBytes;
    this.fileBytes = fileBytes;
    this.extents = extents;
  }

  /** The same directory with more extents, or with fewer: then it loses those at its end. */
  void resize(int otherExtents) {
    logExtents.clear(otherExtents, Math.max(otherExtents, logExtents.length()));
    extents = otherExtents;
  }

  /** The directory ends here, and spans of lower sequences that lay beyond shall not come back. */
  void cut(long sequence) {
    cuts.removeIf(cut -> cut.extent >= extents);
    cuts.add(new Cut(extents, sequence));
    if (cuts.size() > MAX_CUTS) {
      // The two last become one: blocks between them are lost, if there are any.
      cuts.remove(MAX_CUTS);
      Cut least = cuts.remove(MAX_CUTS - 1);
      cuts.add(new Cut(least.extent, sequence));
    }
  }

  /** Whether a span that ends at this extent was beyond the directory's end at some time. */
  boolean isCut(long endExtent, long spanSequence) {
    return cuts.stream().anyMatch(cut -> endExtent > cut.extent && spanSequence < cut.sequence);
  }

  void encode(MemorySegment copy) {
    copy.fill((byte) 0);
    copy.set(LONG, 0, MAGIC);
    copy.set(INT, 8, VERSION);
    copy.set(INT, 12, BYTES);
    copy.set(LONG, 16, sequence);
    copy.set(LONG, 24, directoryId);
    copy.set(LONG, 32, extentBytes);
    copy.set(LONG, 40, fileBytes);
    copy.set(INT, 48, extents);
    copy.set(INT, 52, members.length);
    copy.set(INT, 56, generations.size());
    copy.set(INT, 60, clean ? FLAG_CLEAN : 0);
    copy.set(LONG, 64, floor);
    copy.set(LONG, SEQUENCES_OFFSET, sequences);
    copy.set(LONG, USES_OFFSET, uses);
    copy.set(LONG, DOUBT_OFFSET, doubtBelow);
    copy.set(INT, 72, cuts.size());
    for (int i = 0; i < cuts.size(); i++) {
      copy.set(INT, CUTS_OFFSET + (long) CUT_BYTES * i, cuts.get(i).extent);
      copy.set(LONG, CUTS_OFFSET + (long) CUT_BYTES * i + 8, cuts.get(i).sequence);
    }
    for (int i = 0; i < members.length; i++) {
      copy.set(LONG, MEMBERS_OFFSET + 8L * i, members[i]);
    }
    long at = NAMESPACES_OFFSET;
    for (Map.Entry<Digest, Integer> namespace : generations.entrySet()) {
      copy.set(LONG, at, namespace.getKey().hi());
      copy.set(LONG, at + 8, namespace.getKey().lo());
      copy.set(INT, at + 16, namespace.getValue());
      at += NAMESPACE_BYTES;
    }
    byte[] bitmap = logExtents.toByteArray();
    MemorySegment.copy(bitmap, 0, copy, ValueLayout.JAVA_BYTE, BITMAP_OFFSET, bitmap.length);
    copy.set(INT, CRC_OFFSET, Checksums.of(copy.asSlice(0, CRC_OFFSET)));
  }

  /** The format version of a copy that is whole, -1 if it is none. */
  static int version(MemorySegment copy) {
    boolean whole =
        copy.get(LONG, 0) == MAGIC
            && copy.get(INT, CRC_OFFSET) == Checksums.of(copy.asSlice(0, CRC_OFFSET));
    return whole ? copy.get(INT, 8) : -1;
  }

  /** A copy's contents, null if it is broken, or of another version. */
  static @Nullable DirectoryMeta decode(MemorySegment copy) {
    int members = copy.get(INT, 52);
    int namespaces = copy.get(INT, 56);
    int extents = copy.get(INT, 48);
    long extentBytes = copy.get(LONG, 32);
    int cuts = copy.get(INT, 72);
    if (version(copy) != VERSION
        || cuts < 0
        || cuts > MAX_CUTS
        || members < 0
        || members > SsdOptions.MAX_DIRECTORIES
        || namespaces < 0
        || namespaces > MAX_NAMESPACES
        || extents < 1
        || extents > MAX_EXTENTS
        || extentBytes < SsdStore.PAGE_BYTES
        || extentBytes % SsdStore.PAGE_BYTES != 0) {
      return null;
    }
    DirectoryMeta meta =
        new DirectoryMeta(copy.get(LONG, 24), extentBytes, copy.get(LONG, 40), extents);
    meta.sequence = copy.get(LONG, 16);
    meta.clean = (copy.get(INT, 60) & FLAG_CLEAN) != 0;
    meta.floor = copy.get(LONG, 64);
    meta.sequences = copy.get(LONG, SEQUENCES_OFFSET);
    meta.uses = copy.get(LONG, USES_OFFSET);
    meta.doubtBelow = copy.get(LONG, DOUBT_OFFSET);
    for (int i = 0; i < cuts; i++) {
      long at = CUTS_OFFSET + (long) CUT_BYTES * i;
      meta.cuts.add(new Cut(copy.get(INT, at), copy.get(LONG, at + 8)));
    }
    meta.members = new long[members];
    for (int i = 0; i < members; i++) {
      meta.members[i] = copy.get(LONG, MEMBERS_OFFSET + 8L * i);
    }
    for (int i = 0; i < namespaces; i++) {
      long at = NAMESPACES_OFFSET + (long) NAMESPACE_BYTES * i;
      Digest digest = new Digest(copy.get(LONG, at), copy.get(LONG, at + 8));
      meta.generations.put(digest, copy.get(INT, at + 16));
    }
    byte[] bitmap =
        copy.asSlice(BITMAP_OFFSET, (MAX_EXTENTS + 7) / 8).toArray(ValueLayout.JAVA_BYTE);
    meta.logExtents.or(BitSet.valueOf(bitmap));
    meta.logExtents.clear(extents, Math.max(extents, meta.logExtents.length()));
    return meta;
  }
}
