package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

/** What the naive reference knows, and what can be counted from it. */
class NaiveState {
  record Key(int namespace, int group, long hash) {}

  record LeaseKey(int instance, long request, int group) {}

  record Answer(int chain, int servable, int resident, boolean leased) {}

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

  static final class Block {
    final Space space;
    final Key key;
    final Long parent;
    boolean ready;
    boolean whole;
    boolean removed;
    long used;
    long slot = -1;

    Block(Space space, Key key, Long parent) {
      this.space = space;
      this.key = key;
      this.parent = parent;
    }
  }

  static final class Chain {
    final List<Long> hashes = new ArrayList<>();
    int generation;
  }

  static final class Lease {
    Block deepest;
    int depth;
    long refreshed;
  }

  /** A load or a save; a load's blocks are all there from its start. */
  static final class Work {
    final long id;
    final int instance;
    final Space space;
    final boolean save;
    final long planned;
    final int skipped;
    final int unplaced;
    final List<Block> blocks;
    final int[] gpu;
    final String[] parts;
    final Map<Integer, List<Integer>> sent = new HashMap<>();
    final Map<Integer, Integer> in = new HashMap<>();
    Block held;
    boolean stale;
    String failure = "FAILED";

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
  final long capacity;
  final List<Space> spaces = new ArrayList<>();
  final Map<Integer, Space> instances = new TreeMap<>();
  final Map<Key, Block> blocks = new LinkedHashMap<>();
  final Map<Integer, Map<Long, Chain>> chains = new TreeMap<>();
  final Map<LeaseKey, Lease> leases = new LinkedHashMap<>();
  final Map<Long, Work> jobs = new LinkedHashMap<>();
  final Map<Long, Ended> ended = new HashMap<>();
  final Map<Long, Parked> parked = new LinkedHashMap<>();

  /** What the last call should have emitted; order counts for evictions only. */
  final List<String> expected = new ArrayList<>();

  final List<String> evicted = new ArrayList<>();
  final List<Block> published = new ArrayList<>();
  long now;
  long tick;
  int foreign;

  NaiveState(CacheConfig config, long capacity) {
    this.config = config;
    this.capacity = capacity;
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

  long usedBytes() {
    return blocks.values().stream().mapToLong(block -> block.space.slotBytes).sum()
        + quarantine().stream().mapToLong(block -> block.space.slotBytes).sum();
  }

  /** Blocks that have gone and whose slot a copy may touch. */
  Set<Block> quarantine() {
    Set<Block> result = new HashSet<>();
    for (Work work : jobs.values()) {
      for (int i = 0; i < work.blocks.size(); i++) {
        Block block = work.blocks.get(i);
        if (block.removed && (!work.save || work.copies(i))) {
          result.add(block);
        }
      }
    }
    return result;
  }

  int pins(Block block) {
    long held = jobs.values().stream().filter(work -> Objects.equals(work.held, block)).count();
    long leased = leases.values().stream().filter(lease -> lease.deepest == block).count();
    return (int) (held + leased);
  }

  boolean hasChildren(Block block) {
    return blocks.values().stream()
        .anyMatch(other ->
            Objects.equals(other.parent, block.key.hash)
                && other.space == block.space
                && other.key.group == block.key.group);
  }

  Block parent(Block block) {
    return blocks.get(new Key(block.space.handle, block.key.group, block.parent));
  }

  Block oldest(long slotBytes) {
    return blocks.values().stream()
        .filter(block -> block.space.slotBytes == slotBytes && block.ready)
        .filter(block -> pins(block) == 0 && !hasChildren(block))
        .min(Comparator.comparingLong(block -> block.used))
        .orElse(null);
  }
}
