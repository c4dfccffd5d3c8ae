package io.flexkv.session;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * One engine: its scheduler and its ranks, as far as they are here. Cache thread only.
 *
 * <p>Ready when the scheduler is there and every rank has confirmed its layout. It stays open in
 * the cache core while a rank is away, so that leases and chains survive that, but answers nothing.
 */
final class Instance {
  private static final int MAX_RESET_ANSWERS = 16;

  /** The key of the cache core for it; never used again. */
  final int id;

  final String name;
  @Nullable Session scheduler;
  final @Nullable Session[] workers = new Session[Hello.MAX_WORLD];
  final @Nullable Registration[] ranks = new Registration[Hello.MAX_WORLD];

  /** Of ranks whose copies have failed for good, by rank. */
  final Map<Integer, CopyFailures> copyFailures = new HashMap<>();

  /** The cache core's handle, −1 until it was ready for the first time with this scheduler. */
  int namespace = -1;

  boolean ready;

  /** A reset came while the namespace was not known: it is done before anything is served. */
  boolean resetPending;

  /** Who waits for that reset. */
  private final List<SsdRouter.Answer> resetAnswers = new ArrayList<>();

  /** Where each rank's part begins in a slot. */
  long[] partOffsets = new long[0];

  /**
   * All ranks hold the same bytes: a block has one part, rank 0 saves it and every rank loads it.
   */
  boolean storedOnce;

  Instance(int id, String name) {
    this.id = id;
    this.name = name;
  }

  /** Keeps who is to be told of the pending reset; false if too many wait already. */
  boolean resetWaits(SsdRouter.Answer answer) {
    return resetAnswers.size() < MAX_RESET_ANSWERS && resetAnswers.add(answer);
  }

  /** Takes those who wait for the pending reset, which is being done now. */
  List<SsdRouter.Answer> takeResetAnswers() {
    List<SsdRouter.Answer> taken = List.copyOf(resetAnswers);
    resetAnswers.clear();
    return taken;
  }

  boolean isEmpty() {
    if (scheduler != null) {
      return false;
    }
    for (Session worker : workers) {
      if (worker != null) {
        return false;
      }
    }
    return true;
  }

  int worldSize() {
    return scheduler == null ? 0 : scheduler.hello.worldSize();
  }

  /** Whether memory of it lies on this GPU. */
  boolean uses(String gpu) {
    for (Registration registration : ranks) {
      if (registration != null && registration.memory.layout().gpu().equals(gpu)) {
        return true;
      }
    }
    return false;
  }

  /** Why it cannot be ready, null if it can. */
  @Nullable String missing() {
    Session present = scheduler;
    if (present == null) {
      return "its scheduler is not here";
    }
    if (present.hello.kvGroups() != 1) {
      return present.hello.kvGroups() + " KV groups, and only one is served";
    }
    for (int rank = 0; rank < worldSize(); rank++) {
      Session worker = workers[rank];
      Registration registration = ranks[rank];
      if (worker == null) {
        return "rank " + rank + " of " + worldSize() + " is not here";
      }
      if (registration == null || !registration.confirmed) {
        return "rank " + rank + " has not confirmed its layout";
      }
      CopyFailures failures = copyFailures.get(rank);
      if (failures != null && failures.paused()) {
        return "rank " + rank + ": " + failures;
      }
      Hello theirs = worker.hello;
      if ((!theirs.namespace().isEmpty() && !theirs.namespace().equals(present.hello.namespace()))
          || (theirs.worldSize() != 0 && theirs.worldSize() != present.hello.worldSize())
          || theirs.blockTokens() != present.hello.blockTokens()) {
        return ("rank %d says namespace %s, world size %d, block of %d tokens; the scheduler %s, %d,"
                + " %d")
            .formatted(
                rank,
                theirs.namespace(),
                theirs.worldSize(),
                theirs.blockTokens(),
                present.hello.namespace(),
                present.hello.worldSize(),
                present.hello.blockTokens());
      }
    }
    return null;
  }

  /** Whether every rank says that all hold the same bytes, and their layouts agree. */
  boolean sameOnAllRanks() {
    Registration first = ranks[0];
    if (first == null || worldSize() == 1) {
      return false;
    }
    for (int rank = 0; rank < worldSize(); rank++) {
      Registration other = ranks[rank];
      if (other == null
          || !other.sameOnAllRanks
          || other.partBytes() != first.partBytes()
          || !other.fingerprint().equals(first.fingerprint())) {
        return false;
      }
    }
    return true;
  }

  /** Whether a rank takes part in saves. */
  boolean saves(int rank) {
    return rank == 0 || !storedOnce;
  }

  /** Bytes of each part of a block; one part if it is stored once. */
  long[] partBytes() {
    long[] bytes = new long[sameOnAllRanks() ? 1 : worldSize()];
    for (int rank = 0; rank < bytes.length; rank++) {
      Registration registration = ranks[rank];
      bytes[rank] = registration == null ? 0 : registration.partBytes();
    }
    return bytes;
  }

  /**
   * What may share bytes with it: 128 bits over what the client says its bytes depend on, and how
   * every rank lays them out.
   */
  long[] digest() {
    MessageDigest sha;
    try {
      sha = MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every JDK has SHA-256", e);
    }
    Session present = scheduler;
    if (present == null) {
      throw new IllegalStateException(name + " has no scheduler");
    }
    text(sha, "flexkv-namespace-2");
    text(sha, present.hello.namespace());
    number(sha, present.hello.blockTokens());
    number(sha, present.hello.kvGroups());
    number(sha, worldSize());
    text(sha, sameOnAllRanks() ? "stored once" : "a part a rank");
    for (int rank = 0; rank < worldSize(); rank++) {
      Registration registration = ranks[rank];
      text(sha, registration == null ? "" : registration.fingerprint());
      number(sha, registration == null ? 0 : registration.partBytes());
    }
    ByteBuffer digest = ByteBuffer.wrap(sha.digest());
    return new long[] {digest.getLong(), digest.getLong()};
  }

  private static void text(MessageDigest sha, String text) {
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    number(sha, bytes.length);
    sha.update(bytes);
  }

  private static void number(MessageDigest sha, long number) {
    sha.update(ByteBuffer.allocate(8).putLong(0, number));
  }
}
