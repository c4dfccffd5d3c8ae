package io.flexkv.cache;

/** A mutable key, so that a binary search over a chain allocates nothing. One thread. */
final class KeyProbe {
  private long hi;
  private long lo;

  /** Sets this to the key of a block hash, given by its last 16 bytes as two big-endian words. */
  KeyProbe set(KeySalt salt, long hashHi, long hashLo) {
    long l = hashHi;
    long r = hashLo;
    r ^= KeySalt.mix(l ^ salt.k0());
    l ^= KeySalt.mix(r ^ salt.k1());
    r ^= KeySalt.mix(l ^ salt.k2());
    l ^= KeySalt.mix(r ^ salt.k3());
    hi = l;
    lo = r;
    return this;
  }

  /** Sets this to a key that {@link #set} gave. */
  KeyProbe setKey(long keyHi, long keyLo) {
    hi = keyHi;
    lo = keyLo;
    return this;
  }

  /** The inverse of {@link #set}: makes this the last 16 bytes of the hash that has this key. */
  KeyProbe hashOf(KeySalt salt, long keyHi, long keyLo) {
    long l = keyHi;
    long r = keyLo;
    l ^= KeySalt.mix(r ^ salt.k3());
    r ^= KeySalt.mix(l ^ salt.k2());
    l ^= KeySalt.mix(r ^ salt.k1());
    r ^= KeySalt.mix(l ^ salt.k0());
    hi = l;
    lo = r;
    return this;
  }

  long hi() {
    return hi;
  }

  long lo() {
    return lo;
  }
}
