package io.flexkv.cache;

import static io.flexkv.cache.BlockIndex.NONE;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** What may share bytes: its geometry, its present generation and the roots of its block trees. */
final class Namespace {
  private final int handle;
  private final long digestHi;
  private final long digestLo;
  private final long slotBytes;
  private EvictionPolicy hostPolicy;
  private EvictionPolicy ssdPolicy;
  private final @Nullable KeySalt[] salts;
  private int generation;
  private boolean clearing;

  /** Size of each part; empty while no client has said, because its blocks were found on an SSD. */
  private long[] partBytes;

  /** How fast its engines compute. */
  final ComputeSpeed speed = new ComputeSpeed();

  private int blockTokens;

  /** Head of the sibling list of entries without a parent. */
  int firstRoot = NONE;

  Namespace(
      int handle,
      long digestHi,
      long digestLo,
      long slotBytes,
      int generation,
      EvictionPolicies policies,
      int maxGroups) {
    this.handle = handle;
    this.digestHi = digestHi;
    this.digestLo = digestLo;
    this.partBytes = new long[0];
    this.slotBytes = slotBytes;
    this.generation = generation;
    this.hostPolicy = policies.of(Tier.HOST, slotBytes);
    this.ssdPolicy = policies.of(Tier.SSD, slotBytes);
    this.salts = new @Nullable KeySalt[maxGroups];
  }

  int handle() {
    return handle;
  }

  int parts() {
    return partBytes.length;
  }

  long[] partBytes() {
    return partBytes;
  }

  /** A client says how a block is made up; it knows its sum to be the size of a slot. */
  void setPartBytes(long[] bytes) {
    partBytes = bytes;
  }

  /** Tokens of a block; 0 = nobody has said. */
  int blockTokens() {
    return blockTokens;
  }

  void setBlockTokens(int tokens) {
    blockTokens = tokens;
  }

  long digestHi() {
    return digestHi;
  }

  long digestLo() {
    return digestLo;
  }

  /** Bytes of a block: all its parts one after another. */
  long slotBytes() {
    return slotBytes;
  }

  void usePolicies(EvictionPolicies changed) {
    hostPolicy = changed.of(Tier.HOST, slotBytes);
    ssdPolicy = changed.of(Tier.SSD, slotBytes);
  }

  EvictionPolicy policy(Tier tier) {
    return tier == Tier.HOST ? hostPolicy : ssdPolicy;
  }

  EvictionPolicy hostPolicy() {
    return hostPolicy;
  }

  EvictionPolicy ssdPolicy() {
    return ssdPolicy;
  }

  /** While it is: one notice says that all is gone, instead of one a block. */
  boolean clearing() {
    return clearing;
  }

  void clearing(boolean now) {
    clearing = now;
  }

  int generation() {
    return generation;
  }

  /** Whether it has this group: ids are below the configured number. */
  boolean hasGroup(int group) {
    return group >= 0 && group < salts.length;
  }

  KeySalt salt(int group) {
    KeySalt salt = salts[group];
    if (salt == null) {
      salt = KeySalt.of(digestHi, digestLo, generation, group);
      salts[group] = salt;
    }
    return salt;
  }

  /** From now on no key of an older generation is found. */
  void raiseGeneration() {
    generation++;
    Arrays.fill(salts, null);
  }

  static long sum(long[] partBytes) {
    long sum = 0;
    for (long bytes : partBytes) {
      sum = Math.addExact(sum, bytes);
    }
    return sum;
  }
}
