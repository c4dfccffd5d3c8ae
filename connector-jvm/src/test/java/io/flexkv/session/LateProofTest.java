package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.InstanceOfAssertFactories.type;

import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.device.FakeDevice;
import io.flexkv.device.FakeEngine;
import io.flexkv.protocol.ProofPattern;
import io.flexkv.protocol.RequestException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * A proof that comes late, or whose client goes: it writes into no block that the engine serves by
 * then, and the memory it uses stays mapped until its copies have ended.
 */
class LateProofTest {
  private static final int SHARE = TestRank.SHARE;
  private static final long SECOND = 1_000_000_000L;

  @TempDir Path folder;
  private final FakeEngine engine = new FakeEngine(64);
  private volatile FakeDevice device;
  private SidecarRig rig;
  private TestRank worker;

  private void start(long drainNanos) throws Exception {
    rig = new SidecarRig(folder, layout -> device = engine.open(layout), drainNanos);
    worker = TestRank.joined(rig, "e");
    rig.control.register(worker.registration());
  }

  @AfterEach
  void stop() throws Exception {
    device.held = false;
    worker.close();
    rig.close();
    engine.close();
  }

  private ObjectNode request(long secondsLeft, int... blocks) {
    ObjectNode args = Json.newObject();
    args.put("session_id", worker.sessionId).put("seed", 7);
    args.put("expires_ns", System.nanoTime() + secondsLeft * SECOND);
    for (int block : blocks) {
      args.withArray("blocks").add(block);
    }
    return args;
  }

  private CompletableFuture<Object> write(ObjectNode args) {
    return CompletableFuture.supplyAsync(() -> {
      try {
        return rig.control.proveWrite(args);
      } catch (RequestException e) {
        throw new CompletionException(e);
      }
    });
  }

  private static void assertCode(CompletableFuture<Object> answer, String code) {
    assertThatThrownBy(() -> answer.get(20, TimeUnit.SECONDS))
        .cause()
        .asInstanceOf(type(RequestException.class))
        .extracting(RequestException::code)
        .isEqualTo(code);
  }

  /** Whether the thread that closes the rank's memory has done so, or waits for a proof. */
  private static boolean closerRests() {
    return Thread.getAllStackTraces().entrySet().stream()
        .filter(thread -> thread.getKey().getName().equals("flexkv-close-e-0"))
        .allMatch(thread ->
            Stream.of(thread.getValue()).anyMatch(f -> f.getMethodName().equals("awaitEnd")));
  }

  private boolean isUntouched(int block) {
    return Arrays.equals(worker.block(block), new byte[TestRank.BLOCK]);
  }

  @Test
  void proveWrite_inTime_writesThePattern() throws Exception {
    start(5 * SECOND);
    rig.control.proveWrite(request(20, 0, 9));
    byte[] seen = Arrays.copyOfRange(worker.block(9), SHARE, TestRank.BLOCK);
    assertThat(seen).isEqualTo(ProofPattern.bytes(7, 1, 9, SHARE));
  }

  @Test
  void proveWrite_readAfterItsEnd_isExpired() throws Exception {
    start(5 * SECOND);
    ObjectNode args = request(0, 9);
    assertCode(write(args), "expired");
    assertThat(isUntouched(9)).isTrue();
  }

  @Test
  void proveWrite_pausedBeyondItsEndOnceItsRankWasFound_writesNothing() throws Exception {
    start(5 * SECOND);
    ObjectNode args = request(1, 9);
    long expires = args.path("expires_ns").asLong();
    device.beforeHost =
        () -> {
          while (System.nanoTime() - expires < 0) {
            Thread.onSpinWait();
          }
        };
    assertCode(write(args), "refused");
    assertThat(isUntouched(9)).isTrue();
  }

  @Test
  void prove_withoutAnEnd_readsAndWritesNothing() throws Exception {
    start(5 * SECOND);
    ObjectNode args = request(20, 9);
    args.remove("expires_ns");
    assertThat(rig.control.proveRead(args).has("equal")).isTrue();
    assertThatThrownBy(() -> rig.control.proveWrite(args))
        .hasMessageContaining("does not say until when")
        .hasMessageContaining("flexkv test of the sidecar")
        .hasMessageContaining("install one version for both");
    assertThat(isUntouched(9)).isTrue();
  }

  @Test
  void proveWrite_endFarAhead_isMalformed() throws Exception {
    start(5 * SECOND);
    assertThatThrownBy(() -> rig.control.proveWrite(request(3600, 9)))
        .hasMessageContaining("expires_ns is 3599 s ahead, at most 60")
        .hasMessageContaining("one time namespace");
    assertThat(isUntouched(9)).isTrue();
  }

  @Test
  void sessionEnds_whileItsProofWrites_restIsNotWrittenAndMemoryIsClosedLast() throws Exception {
    start(5 * SECOND);
    device.held = true;
    CompletableFuture<Object> answer = write(request(50, 9, 10));
    SidecarRig.await("its copy runs", () -> device.submitted.get() > 0);
    worker.close();
    SidecarRig.await("only its copy is left", () -> device.openStreams.get() == 1 && closerRests());
    assertThat(device.streamsAtClose).as("closed under a copy").hasValue(-1);
    device.held = false;
    assertCode(answer, "refused");
    SidecarRig.await("the memory is closed", () -> device.streamsAtClose.get() >= 0);
    assertThat(device.streamsAtClose).hasValue(0);
    assertThat(isUntouched(10)).isTrue();
  }

  @Test
  void proveWrite_copyThatDoesNotEnd_isUndrainedAndKeepsTheMemoryUntilItHas() throws Exception {
    start(SECOND / 20);
    device.held = true;
    assertCode(write(request(1, 9)), "undrained");
    worker.close();
    SidecarRig.await("only its copy is left", () -> device.openStreams.get() == 1 && closerRests());
    assertThat(device.streamsAtClose).as("closed under a copy").hasValue(-1);
    device.held = false;
    SidecarRig.await("the memory is closed", () -> device.streamsAtClose.get() >= 0);
    assertThat(device.streamsAtClose).hasValue(0);
  }
}
