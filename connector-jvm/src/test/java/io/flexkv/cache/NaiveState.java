package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Predicate;

/** What the naive reference knows, and what can be counted from it. */
class NaiveState {
  record Key(int namespace, int group, long hash) {}

  record LeaseKey(int instance, long request, int group) {}

  record Answer(
      int chain, int servable, int resident, boolean leased, int host, int ssd, boolean pending) {}

  enum Host {
    NONE(EntryLayout.HOST_NONE),
    READING(EntryLayout.HOST_READING),
    THERE(EntryLayout.HOST_THERE);

    final int code;

    Host(int code) {
      this.code = code;
    }
  }

  /** In the order in which a write goes through them. */
  enum Ssd {
    NONE(EntryLayout.SSD_NONE),
    QUEUED(EntryLayout.SSD_QUEUED),
    WRITING(EntryLayout.SSD_WRITING),
    WRITTEN(EntryLayout.SSD_WRITTEN),
    HELD(EntryLayout.SSD_HELD);

    final int code;

    Ssd(int code) {
      this.code = code;
    }
  }

  static final class Space {
    final int handle;
    final long slotBytes;
    final int parts;
    int generation;

    Space(int handle, long slotBytes, int parts) {
      this.handle = handle;
      this.slotBytes = slotBytes;
      this.parts = parts;
    }
  }

  /** A slot in a tier. It is taken as long as a block has it, or a copy may touch it. */
  static final class Room {
    final long bytes;

    /** The core's name for it, once seen. */
    long slot = -1;

    Room(long bytes) {
      this.bytes = bytes;
    }
  }

  static final class Block {
    final Space space;
    final Key key;
    final Block above;
    boolean ready;
    boolean whole;
    boolean removed;
    Host host = Host.NONE;
    Ssd ssd = Ssd.NONE;
    Room hostRoom;
    Room ssdRoom;

    /** When it was last used in each tier. */
    final Map<Tier, Long> used = new EnumMap<>(Map.of(Tier.HOST, 0L, Tier.SSD, 0L));

    /** The read or write that it is in. */
    Transfer transfer;

    /** The core's handle of it, as seen after the last call. */
    int entry = BlockIndex.NONE;

    Block(Space space, Key key, Block above) {
      this.space = space;
      this.key = key;
      this.above = above;
    }

    boolean onSsd() {
      return ssd.compareTo(Ssd.WRITING) >= 0;
    }

    boolean hot() {
      return ready && host == Host.THERE && (above == null || above.hot());
    }
  }

  static final class Chain {
    final List<Long> hashes = new ArrayList<>();
    int generation;
  }

  static final class Lease {
    Space space;
    Block deepest;
    int depth;
    long refreshed;
    boolean announced;
    boolean asked;
    boolean declined;
    long waitUntil;
    int promoted;
    int promotedFrom;
    Block firstRead;
    Reading reading;
    final Set<Transfer> transfers = new LinkedHashSet<>();
  }

  /** Blocks of a chain for which host slots are being found. */
  static final class Reading {
    final Lease lease;
    final List<Block> path;
    final int first;
    int done;
    Block guard;
    Transfer filling;
    boolean begun;

    Reading(Lease lease, List<Block> path, int first) {
      this.lease = lease;
      this.path = path;
      this.first = first;
    }
  }

  /** Blocks that are read from the SSD, or written to it. */
  static final class Transfer {
    final List<Block> blocks = new ArrayList<>();
    final List<Room> hostRooms = new ArrayList<>();
    final List<Room> ssdRooms = new ArrayList<>();
    final Set<Lease> leases = new LinkedHashSet<>();
    final Set<Work> loads = new LinkedHashSet<>();
    long bytes;
    boolean submitted;
    boolean failed;
    boolean cancelled;
    int ready;

    /** What the core called it. */
    SsdTransfer started;

    boolean wanted() {
      return !leases.isEmpty() || !loads.isEmpty();
    }
  }

  /** A load or a save. */
  static final class Work {
    final long id;
    final int instance;
    final Space space;
    final boolean save;
    final long planned;
    final int skipped;
    final int unplaced;
    final List<Block> blocks;
    final List<Room> rooms;
    final int[] gpu;
    final String[] parts;
    final Map<Integer, List<Integer>> sent = new HashMap<>();
    final Map<Integer, Integer> in = new HashMap<>();
    Block held;
    boolean stale;
    String failure = "FAILED";

    /** Of a load: leading blocks that may be copied, and the reads that bring more. */
    int available;

    boolean cut;
    final Set<Transfer> transfers = new LinkedHashSet<>();

    Work(
        long id,
        int instance,
        Space space,
        boolean save,
        long planned,
        int skipped,
        int unplaced,
        List<Block> blocks,
        int[] gpu,
        int parts) {
      this.id = id;
      this.instance = instance;
      this.space = space;
      this.save = save;
      this.planned = planned;
      this.skipped = skipped;
      this.unplaced = unplaced;
      this.blocks = blocks;
      this.rooms = blocks.stream().map(block -> block.hostRoom).toList();
      this.gpu = gpu;
      this.parts = new String[parts];
      Arrays.fill(this.parts, "waits");
    }

    boolean copies(int block) {
      return sent.values().stream().anyMatch(list -> list.contains(block));
    }

    boolean has(String state) {
      return Arrays.asList(parts).contains(state);
    }

    boolean alive() {
      return blocks.stream().anyMatch(block -> !block.removed);
    }
  }

  /** A job that has ended: what its unanswered parts are told when their go comes. */
  static final class Ended {
    final String status;
    final Set<Integer> owed = new TreeSet<>();

    Ended(String status, int parts) {
      this.status = status;
      for (int part = 0; part < parts; part++) {
        owed.add(part);
      }
    }
  }

  static final class Parked {
    final Set<Integer> parts = new TreeSet<>();
    final long since;

    Parked(long since) {
      this.since = since;
    }
  }

  final CacheConfig config;
  final SsdConfig ssdConfig;
  private final Map<Tier, Long> capacity;
  final List<Space> spaces = new ArrayList<>();
  final Map<Integer, Space> instances = new TreeMap<>();
  final Map<Key, Block> blocks = new LinkedHashMap<>();
  final Map<Integer, Map<Long, Chain>> chains = new TreeMap<>();

  /** The one refreshed last at the end. */
  final Map<LeaseKey, Lease> leases = new LinkedHashMap<>();

  final Map<Long, Work> jobs = new LinkedHashMap<>();
  final Map<Long, Ended> ended = new HashMap<>();
  final Map<Long, Parked> parked = new LinkedHashMap<>();

  /** Open reads, those included that are still being put together, and open writes. */
  final List<Transfer> reads = new ArrayList<>();

  final List<Transfer> writes = new ArrayList<>();

  /** Those that may touch their slots, open or not. */
  final Set<Transfer> undrained = new LinkedHashSet<>();

  final List<Reading> unfinished = new ArrayList<>();

  /** Blocks that somebody needs for the moment. */
  final List<Block> guarded = new ArrayList<>();

  /** What the last call should have emitted: in any order, and in these. */
  final List<String> expected = new ArrayList<>();

  final List<String> evicted = new ArrayList<>();
  final List<String> stored = new ArrayList<>();
  final List<Transfer> startedReads = new ArrayList<>();
  final List<Transfer> startedWrites = new ArrayList<>();
  final List<Transfer> cancelled = new ArrayList<>();
  long now;
  long tick;

  /**
   * @param ssdCapacity 0: there is no SSD tier
   */
  NaiveState(CacheConfig config, SsdConfig ssdConfig, long hostCapacity, long ssdCapacity) {
    this.config = config;
    this.ssdConfig = ssdConfig;
    this.capacity = Map.of(Tier.HOST, hostCapacity, Tier.SSD, ssdCapacity);
  }

  boolean hasSsd() {
    return capacity.get(Tier.SSD) > 0;
  }

  void forgetNotices() {
    List.of(expected, evicted, stored, startedReads, startedWrites, cancelled).forEach(List::clear);
  }

  long chainBlocks() {
    return chains.values().stream()
        .flatMap(mine -> mine.values().stream())
        .mapToLong(chain -> chain.hashes.size())
        .sum();
  }

  int chainCount() {
    return chains.values().stream().mapToInt(Map::size).sum();
  }

  int parkedCount() {
    return parked.values().stream().mapToInt(p -> p.parts.size()).sum();
  }

  boolean hasRoom(Tier tier, long bytes) {
    return usedBytes(tier) + bytes <= capacity.get(tier);
  }

  long usedBytes(Tier tier) {
    Set<Room> taken = owned(tier);
    taken.addAll(touched(tier));
    return taken.stream().mapToLong(room -> room.bytes).sum();
  }

  /** Slots that no block has and that a copy may touch. */
  Set<Room> quarantine(Tier tier) {
    Set<Room> result = touched(tier);
    result.removeAll(owned(tier));
    return result;
  }

  private Set<Room> owned(Tier tier) {
    Set<Room> result = new HashSet<>();
    for (Block block : blocks.values()) {
      if (tier == Tier.HOST ? block.host != Host.NONE : block.onSsd()) {
        result.add(tier == Tier.HOST ? block.hostRoom : block.ssdRoom);
      }
    }
    return result;
  }

  private Set<Room> touched(Tier tier) {
    Set<Room> result = new HashSet<>();
    for (Transfer transfer : undrained) {
      result.addAll(tier == Tier.HOST ? transfer.hostRooms : transfer.ssdRooms);
    }
    for (Work work : tier == Tier.HOST ? jobs.values() : Set.<Work>of()) {
      for (int i = 0; i < work.rooms.size(); i++) {
        if (work.save ? work.copies(i) : work.stale && i < work.available) {
          result.add(work.rooms.get(i));
        }
      }
    }
    return result;
  }

  int pins(Block block) {
    long pins = guarded.stream().filter(guard -> guard == block).count();
    for (Work work : jobs.values()) {
      pins += Objects.equals(work.held, block) ? 1 : 0;
    }
    for (Lease lease : leases.values()) {
      pins += lease.deepest == block ? 1 : 0;
    }
    for (Reading reading : unfinished) {
      pins += reading.path.getLast() == block ? 1 : 0;
      pins += reading.guard == block ? 1 : 0;
    }
    return (int) pins;
  }

  /** The children of a block, the one that came last first. */
  List<Block> children(Block block) {
    List<Block> result = new ArrayList<>();
    for (Block other : blocks.values()) {
      if (other.above == block) {
        result.add(other);
      }
    }
    return result.reversed();
  }

  boolean hasChildren(Block block) {
    return hasChild(block, child -> true);
  }

  boolean hasChild(Block block, Predicate<Block> condition) {
    for (Block other : blocks.values()) {
      if (other.above == block && condition.test(other)) {
        return true;
      }
    }
    return false;
  }
}
