package io.flexkv.session;

import io.flexkv.cache.CacheConfig;
import io.flexkv.cache.CacheCore;
import io.flexkv.events.EventHub;
import io.flexkv.ffm.Linux;
import io.flexkv.ffm.SharedMemory;
import io.flexkv.protocol.EndRequestRecord;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.SessionFileDescriptor;
import io.flexkv.protocol.SpscRingReader;
import io.flexkv.protocol.SpscRingWriter;
import io.flexkv.tier.HostPool;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Looks some thousand chains up before the first engine does, so that the compiler has done its
 * work by then: an answer that takes 9 us takes 30 us in half compiled code, and a busy engine
 * would need minutes to get out of that by itself.
 *
 * <p>Goes the whole way of a record, from a ring to a ring, through the very classes that serve,
 * but with a session, a cache core and a pool of its own, which nobody else ever sees. Half of the
 * lookups find all of their chain, the others part of it. Runs once, on a thread of its own.
 */
public final class LookupWarmup {
  private static final Logger LOG = LoggerFactory.getLogger(LookupWarmup.class);

  /** Enough for the last tier of the compiler, which begins at 5,000 calls. */
  private static final int ROUNDS = 12_000;

  private static final int HASH_BYTES = 32;
  private static final int KEYS = 64;
  private static final int RESIDENT = 48;
  private static final int RING_BYTES = 1 << 17;
  private static final int POOL_BYTES = 1 << 20;
  private static final int INSTANCE = 1;

  private final CacheCore core;
  private final RecordHandler handler;
  private final Session session;
  private final SpscRingWriter toServer;
  private final SpscRingReader toClient;
  private final MemorySegment record = Arena.ofAuto().allocate(Protocol.MAX_RECORD_BYTES, 8);
  private final MemorySegment scratch = Arena.ofAuto().allocate(Protocol.MAX_RECORD_BYTES, 8);
  private final LookupAnswerRecord answer = new LookupAnswerRecord();

  private LookupWarmup(SessionMemory memory, Hello hello, Arena arena) throws IOException {
    HostSlots slots =
        new HostSlots(HostPool.create("flexkv-warmup", POOL_BYTES, POOL_BYTES, arena), 0);
    Outbox outbox = new Outbox(1);
    EventHub events = new EventHub();
    SsdRouter ssd = new SsdRouter(null, slots, events, 1, System::nanoTime);
    JobRouter jobs = new JobRouter(new Directory(), outbox, slots, ssd, events, System::nanoTime);
    core = new CacheCore(CacheConfig.defaults(), slots, jobs, System::nanoTime, 1);
    jobs.bind(core);
    handler = new RecordHandler(core, jobs, ssd, events, outbox);
    session = new Session(1, hello, hello.pid(), memory);
    SessionFileDescriptor.Geometry g = memory.geometry();
    toServer =
        new SpscRingWriter(
            memory.file(),
            SessionFileDescriptor.TO_SERVER_TAIL,
            SessionFileDescriptor.TO_SERVER_HEAD,
            g.toServerOffset(),
            g.toServerCapacity());
    toClient =
        new SpscRingReader(
            memory.file(),
            SessionFileDescriptor.TO_CLIENT_TAIL,
            SessionFileDescriptor.TO_CLIENT_HEAD,
            g.toClientOffset(),
            g.toClientCapacity());
  }

  /** Chains of 64 blocks from an SSD: enough for the loops in it. */
  private static final int SSD_CHAINS = 400;

  /**
   * Begins on a thread of its own, which serves nobody and ends by itself.
   *
   * @param ssdTier whether there is one, whose first chain should not have to wait either
   */
  public static Thread start(boolean ssdTier) {
    return Thread.ofPlatform()
        .name("flexkv-warmup")
        .daemon()
        .start(() -> {
          long began = System.nanoTime();
          try {
            int answers = run(ROUNDS);
            answers += ssdTier ? SsdWarmup.run(SSD_CHAINS) : 0;
            LOG.debug("{} lookups in {} ms", answers, (System.nanoTime() - began) / 1_000_000);
          } catch (IOException | ProtocolException | RuntimeException e) {
            LOG.warn("the first lookups will be slow, warming up failed", e);
          }
        });
  }

  /** Looks up so many chains; returns how many of them were found. */
  static int run(int rounds) throws IOException, ProtocolException {
    int pid = Math.toIntExact(ProcessHandle.current().pid());
    Hello hello =
        new Hello(
            Protocol.ROLE_SCHEDULER,
            pid,
            "warmup",
            0,
            1,
            "00",
            Protocol.VERSION,
            "",
            true,
            1,
            16,
            false);
    SessionFileDescriptor.Geometry geometry =
        new SessionFileDescriptor.Geometry(hello.role(), pid, RING_BYTES, RING_BYTES, 0, 0);
    int fd = SharedMemory.createMemfd("flexkv-warmup", geometry.totalBytes());
    try (Arena arena = Arena.ofConfined()) {
      SessionFileDescriptor.writeGeometry(
          SharedMemory.mapShared(fd, geometry.totalBytes(), arena), geometry);
      try (SessionMemory memory = SessionMemory.map(hello, List.of(fd))) {
        return new LookupWarmup(memory, hello, arena).lookUp(rounds);
      }
    } finally {
      Linux.close(fd);
    }
  }

  private int lookUp(int rounds) throws ProtocolException {
    int namespace = core.openNamespace(1, 2, 1, new long[] {512});
    core.openInstance(INSTANCE, namespace);
    Instance instance = new Instance(INSTANCE, "warmup");
    instance.namespace = namespace;
    instance.ready = true;
    session.instance = instance;
    byte[] hashes = new byte[HASH_BYTES * KEYS];
    new Random(1).nextBytes(hashes);
    save(hashes);
    int found = 0;
    for (int round = 1; round <= rounds; round++) {
      found += ask(round, hashes, round % 2 == 0 ? RESIDENT : KEYS);
    }
    return found;
  }

  /** Makes the first blocks of the chain servable, without a copy. */
  private void save(byte[] hashes) {
    long job = 1L << 40 | 1;
    core.extendChain(INSTANCE, 0, 0, hashes, HASH_BYTES, KEYS);
    core.planSave(INSTANCE, job, 0, 0, 0, new int[RESIDENT], new long[RESIDENT]);
    core.go(job, 0);
    boolean[] copied = new boolean[RESIDENT];
    Arrays.fill(copied, true);
    core.savePartDone(job, 0, copied);
  }

  private int ask(int request, byte[] hashes, int keys) throws ProtocolException {
    byte[] first = Arrays.copyOf(hashes, HASH_BYTES * keys / 2);
    byte[] second = Arrays.copyOfRange(hashes, first.length, HASH_BYTES * keys);
    byte[] noTokens = new byte[0];
    byte[] noKeys = new byte[0];
    send(ExtendRecord.encode(scratch, request, 0, HASH_BYTES, first, noTokens, noKeys));
    send(ExtendRecord.encode(scratch, request, keys / 2, HASH_BYTES, second, noTokens, noKeys));
    send(LookupRecord.encode(scratch, request, request, keys, 0, keys, 0));
    send(EndRequestRecord.encode(scratch, request));
    for (int length; (length = session.read(record)) > 0; ) {
      handler.handle(session, record, length);
    }
    int length = toClient.read(scratch);
    if (length == 0) {
      return 0;
    }
    answer.wrap(scratch, length);
    return answer.status() == Protocol.LOOKUP_OK && answer.servable() == RESIDENT ? 1 : 0;
  }

  private void send(int length) throws ProtocolException {
    if (!toServer.tryWrite(scratch, length)) {
      throw new IllegalStateException("a ring that is read at once has no room");
    }
  }
}
