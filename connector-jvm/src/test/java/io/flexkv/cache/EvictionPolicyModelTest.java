package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;
import static org.assertj.core.api.Assertions.assertThat;

import io.flexkv.cache.EvictionSettings.Policy;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Every policy with a heap (plain LRU is part of {@link ModelTest}) against the plainest form of
 * itself: each block keeps the list of its uses, a lookup uses the whole chain, the victim is found
 * by looking at all blocks.
 */
class EvictionPolicyModelTest {
  private static final int STEPS = 20_000;
  private static final int MOST_BLOCKS = 300;

  private static final class Block {
    final int parent;
    final long created;
    long used;
    long grace;
    int hits;
    int pins;

    Block(int parent, long tick, long now) {
      this.parent = parent;
      created = tick;
      used = tick;
      grace = now;
    }
  }

  private final Map<Integer, Block> blocks = new LinkedHashMap<>();
  private long tick;

  @ParameterizedTest
  @CsvSource({"LRU,50,2", "LFU,0,2", "SLRU,0,1", "SLRU,0,3", "FIFO,0,2", "MRU,0,2", "FILO,0,2"})
  void victim_randomUse_isThatOfTheNaiveForm(Policy policy, long reward, int protectedHits) {
    EvictionSettings settings = new EvictionSettings(policy, reward, protectedHits, 1, 0);
    for (long seed = 1; seed <= 3; seed++) {
      blocks.clear();
      tick = 0;
      Tier tier = seed % 2 == 0 ? Tier.SSD : Tier.HOST;
      run(new PolicyRig(settings, tier), settings, new Random(seed), tier + ", seed " + seed);
    }
  }

  /** The new policy learns in any order, while blocks come and are used, held and let go. */
  @ParameterizedTest
  @CsvSource({
    "LRU,LRU",
    "MRU,LRU",
    "SLRU,LRU",
    "LRU,LFU",
    "LFU,SLRU",
    "LRU,MRU",
    "FIFO,FIFO",
    "FILO,FILO"
  })
  void victim_afterAChange_isThatOfTheNaiveForm(Policy before, Policy after) {
    for (long seed = 1; seed <= 4; seed++) {
      blocks.clear();
      tick = 0;
      EvictionSettings changed = new EvictionSettings(after, 0, 2, 1, 0);
      PolicyRig rig =
          new PolicyRig(
              new EvictionSettings(before, 0, 2, 1, 0), seed % 2 == 0 ? Tier.SSD : Tier.HOST);
      Random random = new Random(seed);
      String what = "seed " + seed;
      grow(rig, random, new ArrayList<>());
      rig.change(changed);
      blocks.values().forEach(block -> block.hits = 0);
      List<Integer> unknown = new ArrayList<>(blocks.keySet());
      Collections.shuffle(unknown, random);
      while (!unknown.isEmpty()) {
        grow(rig, random, unknown);
      }
      List<Integer> pinned = blocks.keySet().stream().filter(e -> block(e).pins > 0).toList();
      for (int entry : pinned.subList(0, pinned.size() / 2)) {
        for (; block(entry).pins > 0; block(entry).pins--) {
          rig.unpin(entry);
        }
      }
      assertThat(rig.policy.size()).isEqualTo(blocks.size());
      int evicted = 0;
      for (int wanted; (wanted = naiveVictim(rig, changed)) != NONE; evicted++) {
        assertThat(rig.policy.victim()).as("%s, victim %d", what, evicted).isEqualTo(wanted);
        remove(rig, wanted);
      }
      assertThat(rig.policy.victim()).as(what).isEqualTo(NONE);
      assertThat(evicted).as(what).isGreaterThan(50);
    }
  }

  /** Blocks come, are used, held and let go; victims are looked for, and the policy learns. */
  private void grow(PolicyRig rig, Random random, List<Integer> unknown) {
    for (int step = 0; step < 150; step++) {
      rig.now += 1 + random.nextInt(20);
      int what = random.nextInt(100);
      if (what < 40 || blocks.isEmpty()) {
        int parent = blocks.isEmpty() || random.nextInt(8) == 0 ? NONE : any(random);
        create(rig.add(parent), parent, rig.now);
      } else if (what < 60) {
        int entry = any(random);
        rig.policy.touch(entry);
        use(entry, rig.now, 0);
      } else if (what < 70) {
        int entry = any(random);
        rig.pin(entry);
        block(entry).pins++;
      } else if (what < 78) {
        int entry = any(random);
        if (block(entry).pins > 0) {
          block(entry).pins--;
          rig.unpin(entry);
        }
      } else if (what < 82) {
        rig.policy.victim(); // what is in use leaves the list
      } else if (!unknown.isEmpty()) {
        rig.policy.learn(unknown.removeLast());
      }
    }
  }

  private void run(PolicyRig rig, EvictionSettings settings, Random random, String seed) {
    int evicted = 0;
    for (int step = 0; step < STEPS; step++) {
      rig.now += 1 + random.nextInt(20);
      int what = random.nextInt(100);
      if ((what < 35 && blocks.size() < MOST_BLOCKS) || blocks.isEmpty()) {
        int parent = blocks.isEmpty() || random.nextInt(8) == 0 ? NONE : any(random);
        create(rig.add(parent), parent, rig.now);
      } else if (what < 60) {
        int entry = any(random);
        rig.policy.touch(entry);
        use(entry, rig.now, settings.hitRewardNanos());
      } else if (what < 70) {
        int entry = any(random);
        rig.pin(entry);
        block(entry).pins++;
      } else if (what < 80) {
        List<Integer> pinned = blocks.keySet().stream().filter(e -> block(e).pins > 0).toList();
        if (!pinned.isEmpty()) {
          int entry = pinned.get(random.nextInt(pinned.size()));
          block(entry).pins--;
          rig.unpin(entry);
        }
      } else if (what < 84) {
        List<Integer> leaves = blocks.keySet().stream().filter(rig::isLeaf).toList();
        int entry = leaves.get(random.nextInt(leaves.size()));
        if (block(entry).pins == 0) {
          remove(rig, entry);
        }
      } else if (blocks.size() > 20) {
        int wanted = naiveVictim(rig, settings);
        assertThat(rig.policy.victim()).as("%s, step %d", seed, step).isEqualTo(wanted);
        if (wanted != NONE) {
          remove(rig, wanted);
          evicted++;
        }
      }
      assertThat(rig.policy.size()).isEqualTo(blocks.size());
    }
    assertThat(evicted).as(seed).isGreaterThan(1000);
  }

  /** To come under a parent is a use of all above, but no hit. */
  private void create(int entry, int parent, long now) {
    blocks.put(entry, new Block(parent, ++tick, now));
    for (int node = parent; node != NONE; node = block(node).parent) {
      block(node).used = tick;
    }
  }

  /** A lookup that ends at a block hits it and all above it; only the end is given a grace. */
  private void use(int entry, long now, long reward) {
    long at = ++tick;
    block(entry).grace = Math.max(block(entry).grace, now) + reward;
    for (int node = entry; node != NONE; node = block(node).parent) {
      block(node).used = at;
      block(node).hits++;
    }
  }

  /** What is left of a grace goes to the parent. */
  private void remove(PolicyRig rig, int entry) {
    rig.remove(entry);
    Block gone = blocks.remove(entry);
    if (gone != null && gone.parent != NONE) {
      Block parent = block(gone.parent);
      parent.grace = Math.max(parent.grace, gone.grace);
    }
  }

  private int naiveVictim(PolicyRig rig, EvictionSettings settings) {
    Comparator<Integer> order =
        switch (settings.policy()) {
          case LRU ->
              settings.hitRewardNanos() == 0
                  ? Comparator.comparingLong(this::used)
                  : Comparator.comparingLong(e -> block(e).grace);
          case LFU ->
              Comparator.<Integer>comparingInt(e -> block(e).hits).thenComparingLong(this::used);
          case SLRU ->
              Comparator.<Integer, Boolean>comparing(
                      e -> block(e).hits >= settings.slruProtectedHits())
                  .thenComparingLong(this::used);
          case FIFO -> Comparator.comparingLong(e -> block(e).created);
          case MRU -> Comparator.comparingLong(e -> -used(e));
          case FILO -> Comparator.comparingLong(e -> -block(e).created);
        };
    return new ArrayList<>(blocks.keySet())
        .stream()
            .filter(e -> rig.isLeaf(e) && block(e).pins == 0)
            .min(order.thenComparing(Comparator.naturalOrder()))
            .orElse(NONE);
  }

  private long used(int entry) {
    return block(entry).used;
  }

  private int any(Random random) {
    List<Integer> all = new ArrayList<>(blocks.keySet());
    return all.get(random.nextInt(all.size()));
  }

  private Block block(int entry) {
    Block block = blocks.get(entry);
    if (block == null) {
      throw new AssertionError("no block " + entry);
    }
    return block;
  }
}
