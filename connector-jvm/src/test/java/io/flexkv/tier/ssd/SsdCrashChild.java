package io.flexkv.tier.ssd;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A process that checks what the last one left, then works on the store until it is killed: from
 * outside, or by itself at a named point.
 *
 * <p>What must be there is in the file {@code expected}, one line each: {@code +key generation}
 * once a block is stored, {@code -key} before its slot is given back, {@code Rgeneration} before a
 * reset, {@code rgeneration} once it is durable. The page cache outlives the process, so every line
 * counts.
 */
final class SsdCrashChild {
  private static final long WORK_NANOS = 600_000_000L;
  private static final int EXIT_KILLED = 137;

  private final Random random;
  private final FileChannel expected;
  private final Map<Long, Integer> durable = new HashMap<>();
  private final Map<Long, Long> slots = new HashMap<>();
  private final List<Long> pairs = new ArrayList<>();
  private long nextKey = 1;
  private int generation;
  private int durableGeneration;

  private SsdCrashChild(Path folder, long seed) throws IOException {
    this.random = new Random(seed);
    Path file = folder.resolve("expected");
    if (Files.exists(file)) {
      Files.readAllLines(file).forEach(this::takeLine);
    }
    this.expected = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
  }

  private void takeLine(String line) {
    if (line.isEmpty()) {
      return;
    }
    String[] words = line.substring(1).split(" ", -1);
    long number = Long.parseLong(words[0]);
    switch (line.charAt(0)) {
      case '+' -> durable.put(number, Integer.parseInt(words[1]));
      case '-' -> durable.remove(number);
      case 'R' -> generation = Math.max(generation, (int) number);
      case 'r' -> durableGeneration = (int) number;
      default -> throw new IllegalStateException("line " + line);
    }
    if (line.charAt(0) == '+' || line.charAt(0) == '-') {
      nextKey = Math.max(nextKey, number + 1);
    }
  }

  private void note(String line) throws IOException {
    expected.write(ByteBuffer.wrap((line + "\n").getBytes(StandardCharsets.US_ASCII)));
  }

  /** Arguments: folder, seed, named point or {@code timer}, its count, ring entries. */
  public static void main(String[] args) throws IOException {
    Path folder = Path.of(args[0]);
    SsdCrashChild child = new SsdCrashChild(folder, Long.parseLong(args[1]));
    IoFaults point = point(args[2], Integer.parseInt(args[3]));
    SsdOptions options =
        SsdRig.options(
            Integer.parseInt(args[4]), 12 << 20, folder.resolve("a"), folder.resolve("b"));
    SsdTuning tuning = SsdTuning.defaults().withExtentBytes(128 << 10).withFaults(point);
    try (SsdRig rig = SsdRig.open(options, tuning)) {
      child.verify(rig);
      child.work(rig);
    }
  }

  /** Dies at the n-th access of a kind, some bytes of which may have been written. */
  private static IoFaults point(String name, int count) {
    AtomicInteger left = new AtomicInteger(count);
    return (op, length) -> {
      boolean here =
          switch (name) {
            case "payload", "payload-torn" -> op.urgency() == BlockOp.Urgency.WRITE;
            case "header", "header-torn" ->
                op.isWrite() && op.urgency() == BlockOp.Urgency.META && op.file() != 0;
            case "description", "description-torn" -> op.isWrite() && op.file() == 0;
            case "read" -> !op.isWrite();
            default -> false;
          };
      if (!here) {
        return length;
      }
      int n = left.decrementAndGet();
      if (n == 0 && name.endsWith("-torn") && length > SsdStore.PAGE_BYTES) {
        return length / 2 / SsdStore.PAGE_BYTES * SsdStore.PAGE_BYTES;
      }
      if (n <= 0) {
        Runtime.getRuntime().halt(EXIT_KILLED);
      }
      return length;
    };
  }

  private void verify(SsdRig rig) throws IOException {
    int wrong = 0;
    int stale = 0;
    Set<Long> found = new HashSet<>();
    for (Map.Entry<Long, SlotHeader> back : rig.recovered.entrySet()) {
      SlotIdentity identity = back.getValue().identity();
      if (identity.generation() < durableGeneration) {
        wrong++; // a reset that was reported, undone
        continue;
      }
      try {
        if (rig.read(back.getKey(), identity).ready() == 1) {
          found.add(identity.keyLo());
          slots.put(identity.keyLo(), back.getKey());
        } else {
          stale++;
          rig.engine.free(back.getKey());
        }
      } catch (AssertionError e) {
        System.out.println("WRONG " + e.getMessage());
        wrong++;
      }
    }
    int current = Math.max(generation, durableGeneration);
    durable.values().removeIf(g -> g < current);
    int wanted = durable.size();
    durable.keySet().retainAll(found);
    System.out.printf(
        "verified wanted=%d missing=%d stale=%d corrupt=%d wrong=%d%n",
        wanted,
        wanted - durable.size(),
        stale,
        rig.engine.stats().corruptBlocks() - rig.engine.stats().staleBlocks(),
        wrong);
    System.out.flush();
    forgetOthers(rig);
  }

  /** Keeps whole pairs only, and nothing that nobody expects. */
  private void forgetOthers(SsdRig rig) throws IOException {
    for (long key : List.copyOf(slots.keySet())) {
      long root = key % 2 == 1 ? key : key - 1;
      boolean whole = durable.containsKey(root) && durable.containsKey(root + 1);
      if (!whole) {
        note("-" + key);
        rig.engine.free(slots.remove(key));
        durable.remove(key);
      } else if (key == root) {
        pairs.add(root);
      }
    }
    nextKey += 1 - nextKey % 2;
  }

  private void work(SsdRig rig) throws IOException {
    generation =
        Math.max(generation, rig.engine.generation(SsdRig.NAMESPACE_HI, SsdRig.NAMESPACE_LO));
    long deadline = System.nanoTime() + WORK_NANOS;
    while (System.nanoTime() - deadline < 0) {
      if (random.nextInt(120) == 0) {
        reset(rig);
      }
      if (random.nextInt(60) == 0) {
        resize(rig);
      }
      write(rig, 1 + random.nextInt(6));
    }
  }

  private void write(SsdRig rig, int count) throws IOException {
    List<SlotHeader> headers = new ArrayList<>();
    List<Long> taken = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      long root = nextKey;
      int payload = random.nextInt(20) == 0 ? 300_000 : 10_000 + random.nextInt(2) * 20_000;
      int event = random.nextInt(1500);
      long first = allocate(rig, payload);
      long second = first == SsdStore.FULL ? first : allocate(rig, payload);
      if (second == SsdStore.FULL) {
        if (first != SsdStore.FULL) {
          rig.engine.free(first);
        }
        break; // what this batch has taken already leaves no room for more
      }
      taken.addAll(List.of(first, second));
      headers.add(SsdRig.header(root, 0, generation, payload, event));
      headers.add(SsdRig.header(root + 1, root, generation, payload, event));
      nextKey += 2;
    }
    if (taken.isEmpty()) {
      throw new IllegalStateException("full, and nothing to evict");
    }
    long[] into = taken.stream().mapToLong(Long::longValue).toArray();
    SsdEvent.Ended end = rig.await(rig.submitWrite(into, headers));
    if (end.outcome() != SsdEvent.Outcome.DONE) {
      throw new IllegalStateException("write ended " + end);
    }
    for (int i = 0; i < headers.size(); i++) {
      long key = headers.get(i).identity().keyLo();
      note("+" + key + " " + generation);
      slots.put(key, into[i]);
      if (key % 2 == 1) {
        pairs.add(key);
      }
    }
  }

  /** FULL once nothing is left to evict. */
  private long allocate(SsdRig rig, long payload) throws IOException {
    long slot;
    while ((slot = rig.engine.allocate(payload)) == SsdStore.FULL && !pairs.isEmpty()) {
      evict(rig, pairs.remove(random.nextInt(pairs.size())));
      rig.engine.poll();
    }
    return slot;
  }

  private void evict(SsdRig rig, long root) throws IOException {
    for (long key : new long[] {root + 1, root}) {
      note("-" + key);
      rig.engine.free(slots.remove(key));
    }
  }

  private void resize(SsdRig rig) throws IOException {
    long bytes = (6L + random.nextInt(7)) << 20;
    try {
      rig.engine.prepareResize(bytes);
    } catch (IOException e) {
      return; // files of the last change are being cut
    }
    rig.engine.resize(bytes);
    rig.engine.resizeOver();
    for (long root : List.copyOf(pairs)) {
      if (rig.engine.leaves(slots.get(root)) || rig.engine.leaves(slots.get(root + 1))) {
        pairs.remove(root);
        evict(rig, root);
      }
    }
  }

  private void reset(SsdRig rig) throws IOException {
    generation++;
    note("R" + generation);
    rig.engine.resetNamespace(SsdRig.NAMESPACE_HI, SsdRig.NAMESPACE_LO, generation);
    SsdEvent.ResetDone done = rig.await(SsdEvent.ResetDone.class);
    if (!done.durable()) {
      throw new IllegalStateException("reset: " + done);
    }
    note("r" + generation);
    for (long root : List.copyOf(pairs)) {
      evict(rig, root);
    }
    pairs.clear();
  }

  /** The named points. */
  static List<String> points() {
    return Arrays.asList(
        "timer",
        "payload",
        "payload-torn",
        "header",
        "header-torn",
        "description",
        "description-torn",
        "read");
  }
}
