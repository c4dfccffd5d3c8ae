package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.Protocol;
import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The path of a lookup leaves nothing to collect: no collection delays an engine's step. */
class LookupAllocationTest {
  private static final int KEYS = 512;
  private static final int WARM = 12_000;
  private static final int MEASURED = 4_000;

  @TempDir Path folder;

  @Test
  void lookup_steadyState_allocatesNothing() throws Exception {
    SidecarRig rig = new SidecarRig(folder);
    try (TestClient scheduler = TestClient.of(rig, Protocol.ROLE_SCHEDULER).join("e");
        TestClient worker = TestClient.of(rig, Protocol.ROLE_WORKER).join("e")) {
      InstanceTest.makeReady(rig, worker);
      byte[] hashes = new byte[32 * KEYS];
      new Random(1).nextBytes(hashes);
      scheduler.send(
          ExtendRecord.encode(scheduler.scratch, 1, 0, 32, hashes, new int[0], new byte[0]));
      LookupAnswerRecord answer = new LookupAnswerRecord();
      ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
      long before = 0;
      for (int i = 0; i < WARM + MEASURED; i++) {
        if (i == WARM) {
          before = threads.getThreadAllocatedBytes(rig.agentThreadId());
        }
        scheduler.send(LookupRecord.encode(scheduler.scratch, i, 1, KEYS, 0, KEYS, 0));
        scheduler.receive(answer);
        assertThat(answer.status()).isEqualTo(Protocol.LOOKUP_OK);
      }
      long bytes = threads.getThreadAllocatedBytes(rig.agentThreadId()) - before;
      // A sleep in between (another process took the core) may cost a few objects.
      assertThat(bytes / (double) MEASURED).as("bytes a lookup, of the cache thread").isLessThan(8);
    } finally {
      rig.close();
    }
  }
}
