package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.ffm.PidFd;
import io.flexkv.protocol.Protocol;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;
import java.util.function.Consumer;

/** A rank's worker, and the KV of its {@value #BLOCKS} blocks in this process's memory. */
final class TestRank extends TestClient {
  /** Bytes of a block: region 0 and 1 halve it, as K and V of one layer. */
  static final int BLOCK = 8192;

  static final int SHARE = BLOCK / 2;

  final MemorySegment memory = Arena.ofAuto().allocate((long) BLOCK * BLOCKS, 4096);
  private final SidecarRig rig;

  private TestRank(SidecarRig rig) throws IOException {
    super(rig.socketPath, Protocol.ROLE_WORKER, RING);
    this.rig = rig;
  }

  static TestRank joined(SidecarRig rig, String instance) throws Exception {
    return joined(rig, instance, hello -> {});
  }

  static TestRank joined(SidecarRig rig, String instance, Consumer<ObjectNode> change)
      throws Exception {
    TestRank rank = new TestRank(rig);
    rank.join(instance, change);
    return rank;
  }

  /** What it registers, not proved yet. */
  ObjectNode registration() throws Exception {
    ObjectNode args = Json.newObject();
    args.put("session_id", sessionId).put("proved", false);
    args.putNull("fences");
    ObjectNode layout = args.putObject("layout");
    layout.put("block_tokens", 16).put("num_blocks", BLOCKS).put("fingerprint", "f");
    ObjectNode allocation = layout.putArray("allocations").addObject();
    allocation.put("kind", "process").put("pid", PID);
    allocation.put("start_ticks", PidFd.startTimeTicks(PID));
    allocation.put("address", memory.address()).put("length", memory.byteSize());
    var regions = layout.putArray("regions");
    regions.addArray().add(0).add(0).add(BLOCK).add(SHARE).add(BLOCKS);
    regions.addArray().add(0).add(SHARE).add(BLOCK).add(SHARE).add(BLOCKS);
    return args;
  }

  /** What it registers, proved in an earlier life. */
  ObjectNode provedRegistration() throws Exception {
    return registration().put("proved", true);
  }

  /** Registers and confirms; what the sidecar answers to the latter. */
  JsonNode register() throws Exception {
    return register(provedRegistration());
  }

  JsonNode register(ObjectNode args) throws Exception {
    rig.control.register(args);
    return rig.control.confirm(args);
  }

  /** Registers and confirms as the last rank of its engine. */
  void makeReady() throws Exception {
    assertThat(register().path("ready").asBoolean()).isTrue();
  }

  /** Writes a block as the engine would; its bytes. */
  byte[] fill(int block, int seed) {
    byte[] bytes = new byte[BLOCK];
    new Random(seed).nextBytes(bytes);
    MemorySegment.copy(bytes, 0, memory, ValueLayout.JAVA_BYTE, (long) block * BLOCK, BLOCK);
    return bytes;
  }

  byte[] block(int block) {
    return memory.asSlice((long) block * BLOCK, BLOCK).toArray(ValueLayout.JAVA_BYTE);
  }
}
