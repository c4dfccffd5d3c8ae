package io.flexkv.events;

import io.flexkv.protocol.KvNoticeRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/**
 * A scheduler that hears notices, by the rules of the protocol page: it announces what it has not
 * announced, takes back what it has, and after a listing takes back what the listing did not name.
 */
final class NoticeReader implements NoticeSink {
  /** A block in a tier. */
  record Place(int tier, long eventHash) {}

  /** What an event would say of a block. */
  record Said(@Nullable Long parent, List<Integer> tokens, String extra) {}

  /** Records that wait to be read; more are refused. */
  int room = Integer.MAX_VALUE;

  final TreeMap<String, Said> announced = new TreeMap<>();
  final ArrayDeque<byte[]> ring = new ArrayDeque<>();
  final List<String> log = new ArrayList<>();
  int listings;
  long taken;
  private @Nullable Set<String> listed;

  static String name(int tier, long eventHash) {
    return tier + ":" + Long.toHexString(eventHash);
  }

  @Override
  public boolean offer(MemorySegment record, int length) {
    if (ring.size() >= room) {
      return false;
    }
    ring.add(record.asSlice(0, length).toArray(java.lang.foreign.ValueLayout.JAVA_BYTE));
    return true;
  }

  /** Reads at most so many notices. */
  void read(int most) {
    byte[] bytes;
    for (int i = 0; i < most && (bytes = ring.poll()) != null; i++) {
      taken++;
      KvNoticeRecord view = new KvNoticeRecord();
      try {
        view.wrap(MemorySegment.ofArray(bytes), bytes.length);
      } catch (ProtocolException e) {
        throw new AssertionError(e);
      }
      hear(view);
    }
  }

  private void hear(KvNoticeRecord notice) {
    switch (notice.kind()) {
      case Protocol.NOTICE_STORED -> stored(notice);
      case Protocol.NOTICE_EVICTED -> {
        for (int i = 0; i < notice.count(); i++) {
          evicted(name(notice.tier(), hash(notice, notice.hashesOffset(), i)));
        }
      }
      case Protocol.NOTICE_CLEARED -> {
        List.copyOf(announced.keySet()).forEach(this::evicted);
      }
      case Protocol.NOTICE_LIST_BEGIN -> {
        listings++;
        listed = new HashSet<>();
      }
      case Protocol.NOTICE_LIST_END -> {
        Set<String> named = listed == null ? Set.of() : listed;
        for (String block : List.copyOf(announced.keySet())) {
          if (!named.contains(block)) {
            evicted(block);
          }
        }
        listed = null;
      }
      default -> throw new AssertionError("kind " + notice.kind());
    }
  }

  private void stored(KvNoticeRecord notice) {
    Long parent = notice.parentBytes() == 0 ? null : hash(notice, notice.parentOffset(), 0);
    int perBlock = notice.tokensCount() / notice.count();
    var extras =
        notice
            .segment()
            .asSlice(notice.extraOffset(), notice.extraBytes())
            .asByteBuffer()
            .order(ByteOrder.LITTLE_ENDIAN);
    for (int i = 0; i < notice.count(); i++) {
      long hash = hash(notice, notice.hashesOffset(), i);
      List<Integer> tokens = new ArrayList<>();
      for (int t = 0; t < perBlock; t++) {
        tokens.add(
            notice
                .segment()
                .get(FactDescriptor.I32, notice.tokensOffset() + 4L * (i * perBlock + t)));
      }
      byte[] extra = new byte[extras.hasRemaining() ? extras.getInt() : 0];
      if (extra.length > 0) {
        extras.get(extra);
      }
      String block = name(notice.tier(), hash);
      if (listed != null) {
        listed.add(block);
      }
      Said said =
          new Said(parent, tokens, new String(extra, java.nio.charset.StandardCharsets.UTF_8));
      Said before = announced.putIfAbsent(block, said);
      if (before == null) {
        log.add("+" + block);
      } else if (!before.equals(said)) {
        throw new AssertionError(block + " was said to be " + before + ", now " + said);
      }
      parent = hash;
    }
  }

  private void evicted(String block) {
    if (listed != null) {
      listed.remove(block);
    }
    if (announced.remove(block) != null) {
      log.add("-" + block);
    }
  }

  private static long hash(KvNoticeRecord notice, long offset, int index) {
    return notice
        .segment()
        .get(FactDescriptor.HASH_WORD, offset + (long) (index + 1) * notice.hashBytes() - 8);
  }
}
