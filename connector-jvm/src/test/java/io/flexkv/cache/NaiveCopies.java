package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Which copies blocks have, and which of them give way, by looking at all of them each time. */
class NaiveCopies extends NaiveState {
  /** Blocks of other sizes that may still go for what is being done, in each tier. */
  private final Map<Tier, Integer> foreign = new EnumMap<>(Map.of(Tier.HOST, 0, Tier.SSD, 0));

  NaiveCopies(CacheConfig config, SsdConfig ssdConfig, long hostCapacity, long ssdCapacity) {
    super(config, ssdConfig, hostCapacity, ssdCapacity);
  }

  void touch(Block block) {
    if (block.host == Host.THERE) {
      block.used.put(Tier.HOST, ++tick);
    }
    if (block.ssd == Ssd.HELD) {
      block.used.put(Tier.SSD, ++tick);
    }
  }

  void inHostNow(Block block) {
    block.host = Host.THERE;
    block.used.put(Tier.HOST, ++tick);
    noticeStored(Tier.HOST, block);
  }

  /** It is held on the SSD, and so is what was written below it and waited for it. */
  void hold(Block block) {
    block.ssd = Ssd.HELD;
    block.used.put(Tier.SSD, ++tick);
    noticeStored(Tier.SSD, block);
    for (Block child : children(block)) {
      if (child.ssd == Ssd.WRITTEN) {
        hold(child);
      }
    }
  }

  void dropHost(Block block) {
    noticeEvicted(Tier.HOST, block);
    block.host = Host.NONE;
    inherit(Tier.HOST, block);
  }

  void dropSsd(Block block) {
    if (block.ssd == Ssd.HELD) {
      noticeEvicted(Tier.SSD, block);
    }
    block.ssd = Ssd.NONE;
    inherit(Tier.SSD, block);
    for (Block child : children(block)) {
      if (child.ssd == Ssd.WRITTEN) {
        dropSsd(child);
      }
    }
  }

  /** A block without children goes with its copies. */
  void remove(Block block) {
    blocks.remove(block.key);
    forget(block);
    if (block.ready && block.host == Host.THERE) {
      noticeEvicted(Tier.HOST, block);
    }
    boolean wasInHost = block.host != Host.NONE;
    boolean wasOnSsd = block.onSsd();
    if (block.ssd == Ssd.HELD) {
      noticeEvicted(Tier.SSD, block);
    }
    block.host = Host.NONE;
    block.ssd = Ssd.NONE;
    if (wasInHost) {
      inherit(Tier.HOST, block);
    }
    if (wasOnSsd) {
      inherit(Tier.SSD, block);
    }
  }

  static void forget(Block block) {
    block.removed = true;
    block.transfer = null;
  }

  void dropTree(Block block) {
    children(block).forEach(this::dropTree);
    remove(block);
  }

  /** A block or a copy has gone; what it knew of its use goes to its parent after the last. */
  private void inherit(Tier tier, Block gone) {
    Block parent = gone.above;
    if (parent == null || !parent.ready) {
      return;
    }
    boolean last =
        tier == Tier.HOST
            ? parent.host == Host.THERE && !hasChild(parent, child -> child.host != Host.NONE)
            : parent.ssd == Ssd.HELD && !hasChild(parent, Block::onSsd);
    if (last) {
      parent.used.merge(tier, gone.used.get(tier), Math::max);
    }
  }

  void mayEvictOthersAgain(Tier tier) {
    foreign.put(tier, config.maxForeignEvictionsPerPlan());
  }

  /** Room for a block of this space, at the cost of others if it must be. */
  boolean makeRoom(Tier tier, Space space) {
    boolean room = hasRoom(tier, space.slotBytes);
    for (int i = 0; !room && i < 4; i++) {
      Block victim = oldest(tier, space.slotBytes);
      if (victim == null) {
        break;
      }
      evict(tier, victim);
      room = hasRoom(tier, space.slotBytes);
    }
    while (!room && foreign.get(tier) > 0) {
      Block victim = oldestOfTheLargestOther(tier, space.slotBytes);
      if (victim == null) {
        break;
      }
      evict(tier, victim);
      foreign.merge(tier, -1, Integer::sum);
      room = hasRoom(tier, space.slotBytes);
    }
    return room;
  }

  private Block oldestOfTheLargestOther(Tier tier, long slotBytes) {
    Map<Long, Long> bytesOfSize = new LinkedHashMap<>();
    spaces.forEach(other -> bytesOfSize.putIfAbsent(other.slotBytes, 0L));
    for (Block block : blocks.values()) {
      if (tier == Tier.HOST ? block.ready && block.host == Host.THERE : block.ssd == Ssd.HELD) {
        bytesOfSize.merge(block.space.slotBytes, block.space.slotBytes, Long::sum);
      }
    }
    Block best = null;
    for (Map.Entry<Long, Long> size : bytesOfSize.entrySet()) {
      Block victim = size.getKey() == slotBytes ? null : oldest(tier, size.getKey());
      if (victim != null
          && (best == null || size.getValue() > bytesOfSize.get(best.space.slotBytes))) {
        best = victim;
      }
    }
    return best;
  }

  void evict(Tier tier, Block victim) {
    if (tier == Tier.HOST && victim.ssd == Ssd.HELD) {
      dropHost(victim);
    } else if (tier == Tier.SSD && victim.host != Host.NONE) {
      dropSsd(victim);
    } else {
      remove(victim);
    }
  }

  Block oldest(Tier tier, long slotBytes) {
    List<Block> candidates = new ArrayList<>();
    for (Block block : blocks.values()) {
      if (block.space.slotBytes == slotBytes
          && block.ready
          && (tier == Tier.HOST ? hostEvictable(block) : ssdEvictable(block))
          && pins(block) == 0) {
        candidates.add(block);
      }
    }
    return candidates.stream()
        .min(Comparator.comparingLong(block -> block.used.get(tier)))
        .orElse(null);
  }

  private boolean hostEvictable(Block block) {
    return block.host == Host.THERE
        && block.ssd != Ssd.WRITING
        && block.ssd != Ssd.WRITTEN
        && !hasChild(block, child -> child.host != Host.NONE)
        && (block.ssd == Ssd.HELD || !hasChildren(block));
  }

  private boolean ssdEvictable(Block block) {
    return block.ssd == Ssd.HELD
        && !hasChild(block, Block::onSsd)
        && (block.host == Host.THERE || (block.host == Host.NONE && !hasChildren(block)));
  }

  private void noticeEvicted(Tier tier, Block block) {
    evicted.add(
        "%s %d %d %d".formatted(tier, block.key.namespace(), block.key.group(), block.key.hash()));
  }

  private void noticeStored(Tier tier, Block block) {
    stored.add(
        "%s %d %d %d under %s %d"
            .formatted(
                tier,
                block.key.namespace(),
                block.key.group(),
                block.key.hash(),
                block.above != null,
                block.above == null ? 0 : block.above.key.hash()));
  }
}
