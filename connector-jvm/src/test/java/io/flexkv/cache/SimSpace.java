package io.flexkv.cache;

/** A simulated namespace: what the right bytes of a block are, per weights and rank. */
final class SimSpace {
  final int handle;
  final int ranks;
  final int saveParts;
  final long partBytes;

  /** Goes up with each reset: bytes from before are wrong afterwards. */
  long version;

  SimSpace(int handle, int ranks, int saveParts, long partBytes) {
    this.handle = handle;
    this.ranks = ranks;
    this.saveParts = saveParts;
    this.partBytes = partBytes;
  }

  /** Which part of a slot a rank reads or writes: its own, or the one that all share. */
  int slotPart(int rank) {
    return saveParts == 1 ? 0 : rank;
  }

  /** The bytes of a block for one rank. */
  long tag(long hash, long atVersion, int rank) {
    long where = (atVersion * 64 + handle) * 64 + slotPart(rank);
    return KeySalt.mix(hash * 31 + KeySalt.mix(where)) >>> 1;
  }
}
