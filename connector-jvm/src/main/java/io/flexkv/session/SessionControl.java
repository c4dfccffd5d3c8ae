package io.flexkv.session;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.device.AllocationHandle;
import io.flexkv.device.DeviceException;
import io.flexkv.device.DeviceMemory;
import io.flexkv.device.FenceRing;
import io.flexkv.device.RankLayout;
import io.flexkv.ffm.Linux;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.RequestException;
import io.flexkv.transfer.LayoutProof;
import io.flexkv.transfer.MoveLimits;
import io.flexkv.transfer.Mover;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.function.Consumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The control plane's requests about sessions: registration of a rank's memory, the proof of its
 * layout, confirmation. Any thread; what belongs to the cache thread is done there and waited for,
 * with a bound. What a device has a part in may take as long as the device likes.
 */
public final class SessionControl {
  private static final Logger LOG = LoggerFactory.getLogger(SessionControl.class);
  private static final long CALL_MILLIS = 3000;
  private static final long PROOF_NANOS_MAX = 60_000_000_000L;
  private static final long EARLIER_CLIENTS_WAIT_NANOS = 20_000_000_000L;
  private static final long PROOF_DRAIN_NANOS = 5_000_000_000L;
  private static final int MAX_PROOF_BLOCKS = 16;

  /** Opens the memory of a rank. */
  @FunctionalInterface
  public interface DeviceOpener {
    DeviceMemory open(RankLayout layout) throws DeviceException;
  }

  private final CacheAgent agent;
  private final AgentInbox inbox;
  private final DeviceOpener devices;
  private final MoveLimits limits;
  private final long proofDrainNanos;

  /**
   * @param devices opens the memory of ranks
   * @param limits of the movers of all ranks
   */
  public SessionControl(CacheAgent agent, DeviceOpener devices, MoveLimits limits) {
    this(agent, devices, limits, PROOF_DRAIN_NANOS);
  }

  SessionControl(CacheAgent agent, DeviceOpener devices, MoveLimits limits, long proofDrainNanos) {
    this.agent = agent;
    this.limits = limits;
    this.proofDrainNanos = proofDrainNanos;
    this.inbox = agent.inbox();
    this.devices = devices;
  }

  /** {@code register}: opens the rank's memory and starts its mover. */
  public JsonNode register(JsonNode args) throws RequestException {
    Session session = worker(args);
    RankLayout layout = LayoutParser.layout(args.path("layout"));
    List<byte[]> handles = LayoutParser.fences(args.path("fences"));
    for (AllocationHandle allocation : layout.allocations()) {
      if (allocation instanceof AllocationHandle.ProcessMemory memory) {
        ProcessOwner.check(memory.pid(), Linux.uid());
      }
    }
    boolean proved = args.path("proved").asBoolean(false);
    boolean same = args.path("layout").path("same_on_all_ranks").asBoolean(false);
    String name = session.hello.instance() + "-" + session.hello.rank();
    Registration registration;
    try {
      registration = open(session, layout, handles, same, proved, name);
    } catch (DeviceException e) {
      tellRefused(session, e.kind() == DeviceException.Kind.GONE ? layout.gpu() : "");
      throw new RequestException("refused", e.getMessage());
    }
    try {
      inbox.call(
          () -> {
            Instance instance = session.instance;
            if (session.ended || instance == null) {
              throw gone(session.id);
            }
            agent.readiness().register(instance, session.hello.rank(), registration);
            return true;
          },
          CALL_MILLIS);
    } catch (RequestException e) {
      registration.closeLater();
      throw e;
    }
    LOG.info(
        "{}: registered {} regions in {} allocations ({}), {} blocks of {} bytes, {} fences",
        session.label(),
        layout.regions().size(),
        layout.allocations().size(),
        layout.allocations().getFirst().kind(),
        layout.blocks(),
        layout.partBytes(),
        handles.size());
    ObjectNode result = Json.newObject();
    result.put("part_bytes", layout.partBytes());
    result.put("proof", proved ? "known" : "needed");
    return result;
  }

  /**
   * @param lostGpu the GPU that is lost to this process, empty where none is
   */
  private void tellRefused(Session session, String lostGpu) throws RequestException {
    inbox.call(
        () -> {
          Instance instance = session.instance;
          if (!session.ended && instance != null) {
            int rank = session.hello.rank();
            var instances = agent.directory().instances();
            if (lostGpu.isEmpty()) {
              agent.readiness().refused(instance, rank, instances, System.nanoTime());
            } else {
              agent.readiness().gpuLost(instance, rank, lostGpu, instances);
            }
          }
          return true;
        },
        CALL_MILLIS);
  }

  private Registration open(
      Session session,
      RankLayout layout,
      List<byte[]> handles,
      boolean same,
      boolean proved,
      String name)
      throws DeviceException {
    DeviceMemory memory = devices.open(layout);
    FenceRing fences = null;
    try {
      SessionMemory words = session.memory;
      fences =
          memory.openFences(
              handles,
              (index, sequence) -> {
                try {
                  words.setFenceSeen(index, sequence);
                } catch (IllegalStateException unmapped) {
                  LOG.trace("fence {} seen after the end of {}", index, name);
                }
              });
      Mover mover = Mover.start(name, memory, fences, agent.completions(), limits);
      return new Registration(name, memory, fences, mover, same, proved);
    } catch (DeviceException | RuntimeException e) {
      if (fences != null) {
        fences.close();
      }
      memory.close();
      throw e;
    }
  }

  /** {@code prove_read}: compares blocks with the pattern. */
  public JsonNode proveRead(JsonNode args) throws RequestException {
    Registration rank = registration(worker(args));
    int[] blocks = blocks(args, rank);
    long seed = seed(args);
    String differs = prove(rank, expiry(args), proof -> proof.read(seed, blocks));
    rank.provedRead = differs.isEmpty();
    ObjectNode result = Json.newObject();
    result.put("equal", differs.isEmpty());
    result.put("detail", differs);
    if (!differs.isEmpty()) {
      LOG.error("{}: the memory is not laid out as registered: {}", rank.name, differs);
    }
    return result;
  }

  /** {@code prove_write}: writes the pattern into blocks. */
  public JsonNode proveWrite(JsonNode args) throws RequestException {
    Session session = worker(args);
    Registration rank = registration(session);
    int[] blocks = blocks(args, rank);
    long seed = seed(args);
    requireExpiry(session, args);
    prove(
        rank,
        expiry(args),
        proof -> {
          proof.write(seed, blocks);
          return "";
        });
    rank.provedWrite = true;
    return Json.newObject();
  }

  /** Reads or writes; the answer is a difference, empty if there is none. */
  @FunctionalInterface
  private interface ProofStep {
    String run(LayoutProof proof) throws DeviceException;
  }

  /**
   * Every answer but {@code undrained} means that no copy of the proof can touch memory any more.
   */
  private String prove(Registration rank, long expiry, ProofStep step) throws RequestException {
    // Collected, not freed: a copy that outlives our patience is harmless.
    MemorySegment scratch = Arena.ofAuto().allocate(rank.partBytes(), 4096);
    if (!rank.uses.begin()) {
      throw new RequestException("gone", rank.name + ": its session has ended");
    }
    LayoutProof proof =
        new LayoutProof(rank.memory, scratch, expiry, proofDrainNanos, rank.uses::over);
    try {
      return step.run(proof);
    } catch (DeviceException e) {
      String code = proof.drained() ? "refused" : "undrained";
      throw new RequestException(code, rank.name + ": " + e.getMessage());
    } catch (RuntimeException | Error e) {
      if (proof.drained()) {
        throw e;
      }
      LOG.error("{}: a proof failed, and its copies have not ended", rank.name, e);
      throw new RequestException("undrained", rank.name + ": " + e);
    } finally {
      if (proof.drained()) {
        rank.uses.end();
      } else {
        rank.uses.end(proof::awaitDrained);
      }
    }
  }

  /**
   * Earlier clients do not say when they stop waiting. What is read late does no harm; what is
   * written late would lie in blocks that the engine serves by then.
   */
  private void requireExpiry(Session session, JsonNode args) throws RequestException {
    if (!args.has("expires_ns")) {
      throw new RequestException(
          "refused",
          ("%s: flexkv %s of this engine does not say until when its blocks may be written"
                  + " (expires_ns), which flexkv %s of the sidecar demands: install one version for"
                  + " both and restart both")
              .formatted(session.label(), session.clientBuild(), agent.build()));
    }
  }

  /** When the client stops waiting; on the clock that both read. */
  private static long expiry(JsonNode args) throws RequestException {
    if (!args.has("expires_ns")) {
      return System.nanoTime() + EARLIER_CLIENTS_WAIT_NANOS;
    }
    long expiry = LayoutParser.number(args, "expires_ns", 0, Long.MAX_VALUE);
    long left = expiry - System.nanoTime();
    if (left <= 0) {
      throw new RequestException(
          "expired",
          "the request is read %d ms after its end: nothing was done".formatted(-left / 1_000_000));
    }
    if (left > PROOF_NANOS_MAX) {
      throw new RequestException(
          "malformed",
          ("expires_ns is %d s ahead, at most %d: it is CLOCK_MONOTONIC, and both sides must run"
                  + " in one time namespace")
              .formatted(left / 1_000_000_000, PROOF_NANOS_MAX / 1_000_000_000));
    }
    return expiry;
  }

  /** {@code confirm}: the rank takes part from now on. */
  public JsonNode confirm(JsonNode args) throws RequestException {
    Session session = worker(args);
    Registration rank = registration(session);
    if (!rank.provedRead || !rank.provedWrite) {
      throw new RequestException(
          "refused",
          "%s: the layout is not proved (read: %s, written: %s)"
              .formatted(rank.name, rank.provedRead, rank.provedWrite));
    }
    String missing =
        inbox.call(
            () -> {
              Instance instance = session.instance;
              if (session.ended || instance == null) {
                throw gone(session.id);
              }
              String reason = agent.readiness().confirm(instance, rank);
              return reason == null ? "" : reason;
            },
            CALL_MILLIS);
    ObjectNode result = Json.newObject();
    result.put("ready", missing.isEmpty());
    result.put("detail", missing);
    return result;
  }

  /** {@code status}: sessions, instances, counters. */
  public JsonNode status() throws RequestException {
    return inbox.call(() -> StatusView.of(agent), CALL_MILLIS);
  }

  /** Changes something on the cache thread: all of it or nothing. */
  public void change(Consumer<CacheAgent> change) throws RequestException {
    inbox.call(
        () -> {
          change.accept(agent);
          return true;
        },
        CALL_MILLIS);
  }

  private Session worker(JsonNode args) throws RequestException {
    long id = LayoutParser.number(args, "session_id", 1, Protocol.MAX_SESSION_ID);
    return inbox.call(
        () -> {
          Session session = agent.directory().session(id);
          if (session == null) {
            throw gone((int) id);
          }
          if (!session.hello.isWorker()) {
            throw new RequestException("refused", session.label() + " is not a worker's");
          }
          return session;
        },
        CALL_MILLIS);
  }

  private Registration registration(Session session) throws RequestException {
    return inbox.call(
        () -> {
          Instance instance = session.instance;
          Registration rank = instance == null ? null : instance.ranks[session.hello.rank()];
          if (rank == null || session.ended) {
            throw new RequestException("refused", session.label() + " has registered nothing");
          }
          return rank;
        },
        CALL_MILLIS);
  }

  private static RequestException gone(int sessionId) {
    return new RequestException("gone", "there is no session " + sessionId + " (any more)");
  }

  private static long seed(JsonNode args) throws RequestException {
    return LayoutParser.number(args, "seed", 0, Long.MAX_VALUE);
  }

  private static int[] blocks(JsonNode args, Registration rank) throws RequestException {
    JsonNode array = LayoutParser.array(args, "blocks", MAX_PROOF_BLOCKS);
    int[] blocks = new int[array.size()];
    for (int i = 0; i < blocks.length; i++) {
      JsonNode block = array.get(i);
      if (!block.isIntegralNumber()
          || !block.canConvertToInt()
          || block.intValue() < 0
          || block.intValue() >= rank.memory.layout().blocks()) {
        throw new RequestException(
            "malformed",
            "blocks holds %s, the layout has %d".formatted(block, rank.memory.layout().blocks()));
      }
      blocks[i] = block.intValue();
    }
    if (blocks.length == 0) {
      throw new RequestException("malformed", "blocks is empty");
    }
    return blocks;
  }
}
